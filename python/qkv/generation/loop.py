"""`Model.generate`: some prompts, run by a scheduler of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from qkv.errors import Error
from qkv.generation.options import Options
from qkv.generation.prompts import Prompt, is_single
from qkv.generation.request import Request, requests_for
from qkv.generation.result import Generation
from qkv.generation.scheduler import Scheduler
from qkv.generation.streamer import Streamer, listening

if TYPE_CHECKING:
    from qkv.model import Model

Result = Generation | list[Generation]


def generate(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    *,
    streamer: Streamer | None = None,
    stream: bool = False,
    progress: Callable[[int, int], object] | None = None,
    **given: Any,
) -> Result | list[Result] | Iterator[str]:
    """See `Model.generate`."""
    single = is_single(prompts)
    if (streamer is not None or stream) and not single:
        raise Error("streaming takes a single prompt, not a list; expected a text or one list of token ids")
    if streamer is not None and stream:
        raise Error("streamer and stream=True exclude each other; expected one of them")
    live = stream or streamer is not None
    if model.tokenizer is None and stream:
        raise Error("stream is about text, but the checkpoint has no tokenizer")
    scheduler = Scheduler(model)
    options = Options.choose(model, given, single=single, streaming=live)
    requests = requests_for(model, prompts, options, live=live)
    for request in requests:
        scheduler.add(request)
    if stream:
        return _pieces(scheduler, requests[0])
    done = 0
    with closing(scheduler), listening(streamer, requests[0].start if requests else []) as listener:
        for request in _steps(scheduler):
            for token, piece in request.take_events():
                listener(token, piece)
            if request.finished:
                done += 1
                if progress:
                    progress(done, len(requests))
    results = [r.results[0] if options.num_return_sequences == 1 else r.results for r in requests]
    return results[0] if single else results


def _pieces(scheduler: Scheduler, request: Request) -> Iterator[str]:
    with closing(scheduler):
        for _ in _steps(scheduler):
            for _, piece in request.take_events():
                if piece:
                    yield piece


def _steps(scheduler: Scheduler) -> Iterator[Request]:
    """Runs until all requests are finished; yields each that moved.

    Raises:
        Exception: what went wrong with a request.
    """
    while scheduler.busy:
        for request in scheduler.step():
            if request.error:
                raise request.error
            yield request
