"""Requests from many threads and coroutines, served as one continuous batch."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Generator, Iterator
from typing import TYPE_CHECKING, Any

from qkv.errors import Error
from qkv.generation.options import Options
from qkv.generation.prompts import Prompt, is_single
from qkv.generation.request import requests_for
from qkv.generation.result import Generation
from qkv.generation.worker import Delivery, Worker

if TYPE_CHECKING:
    from qkv.model import Model

Result = Generation | list[Generation]


class Submitted:
    """A request that an engine works on; `await` it, or ask for its `result`."""

    def __init__(self, worker: Worker, delivery: Delivery) -> None:
        self._worker = worker
        self._delivery = delivery

    @property
    def done(self) -> bool:
        return self._delivery.future.done()

    def result(self, timeout: float | None = None) -> Result:
        """The continuation; with num_return_sequences > 1 a list of them. Of a cancelled request, what there is.

        Raises:
            TimeoutError: it is not there after `timeout` seconds.
            Exception: what went wrong with this request.
        """
        return self._shaped(self._delivery.future.result(timeout))

    def __await__(self) -> Generator[Any, None, Result]:
        import asyncio  # see worker.py

        results = yield from asyncio.shield(asyncio.wrap_future(self._delivery.future)).__await__()
        return self._shaped(results)

    def cancel(self) -> None:
        """End the request; its memory is free before anything else is run. Nothing happens to one that is done."""
        if not self.done:
            self._worker.cancel(self._delivery.request)

    def _shaped(self, results: list[Generation]) -> Result:
        return results[0] if self._delivery.request.options.num_return_sequences == 1 else results


class Stream(Submitted):
    """A submitted request whose text comes in pieces, for `for` and for `async for`. Pieces end between characters and
    never hold a part of a stop string; joined they are the text. Leaving the loop early, or dropping the stream,
    cancels the request."""

    def __iter__(self) -> Iterator[str]:
        taken = 0
        try:
            while pieces := self._delivery.wait(taken):
                taken += len(pieces)
                yield from pieces
            self._delivery.future.result()
        finally:
            self.cancel()

    async def __aiter__(self) -> AsyncIterator[str]:
        taken = 0
        try:
            while pieces := await self._delivery.wait_async(taken):
                taken += len(pieces)
                for piece in pieces:
                    yield piece
            self._delivery.future.result()
        finally:
            self.cancel()

    def __del__(self) -> None:
        self.cancel()


class Engine:
    """Serves a model's requests from a thread of its own, as one continuous batch: they join and leave at every token.

        with qkv.Engine(model) as engine:
            first = engine.submit("Once upon a time", max_new_tokens=100)
            for piece in engine.stream("It was", do_sample=True, seed=1):
                print(piece, end="")
            print(first.result())

    In coroutines: `await engine.submit(...)`, `async for piece in engine.stream(...)`.

    A request's result has the same bits as alone, whatever its company. `priority=` of a request (0 by default; higher
    goes first) decides who waits when there is no room; of equal ones, who came first. Nobody overtakes one that
    waits, and running requests are never put back, so that every request gets its turn.

    Args:
        model: a decoder, with or without an encoder. Its other methods may be used at the same time.

    Raises:
        qkv.Error: the model has no head that predicts the next token.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._worker = Worker(model)
        # at the end of the process, too: a daemon thread must not be within C++ then
        self._finalizer = weakref.finalize(self, self._worker.close)

    def submit(self, prompt: Prompt, **options: Any) -> Submitted:
        """Hand in a request; returns at once. `options`: as `Model.generate` takes them.

        Raises:
            qkv.Error: an option or the prompt is not what it should be, it can never fit the KV cache, or the engine
                is closed.
        """
        return Submitted(self._worker, self._add(prompt, options, live=False))

    def stream(self, prompt: Prompt, **options: Any) -> Stream:
        """Hand in a request whose text is read while it is made.

        Raises:
            qkv.Error: as `submit`, or the checkpoint has no tokenizer.
        """
        if self.model.tokenizer is None:
            raise Error("stream is about text, but the checkpoint has no tokenizer")
        return Stream(self._worker, self._add(prompt, options, live=True))

    def close(self) -> None:
        """Cancel what is unfinished and end the thread; safe to call twice."""
        self._finalizer()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, prompt: Prompt, given: dict[str, Any], live: bool) -> Delivery:
        if not is_single(prompt):
            raise Error("an engine takes one prompt at a time; submit each of the list")
        options = Options.choose(self.model, given, single=True, streaming=live)
        (request,) = requests_for(self.model, prompt, options, live=live)
        delivery = Delivery(request)
        self._worker.add(delivery)
        return delivery
