"""The thread behind an engine: it takes requests in, runs the scheduler, and hands out what is new."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from qkv.errors import Cancelled, Error
from qkv.generation.scheduler import Scheduler

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

    from qkv.generation.request import Request
    from qkv.generation.result import Generation
    from qkv.model import Model


class Delivery:
    """What became of a request so far, for any thread.

    Attributes:
        future: of the results.
        pieces: of text, so far; guarded by `news`, which is notified of more and of the end.
    """

    def __init__(self, request: Request) -> None:
        from concurrent.futures import Future  # not above, as asyncio: `import qkv` would take 50 ms longer

        self.request = request
        self.future: Future[list[Generation]] = Future()
        self.pieces: list[str] = []
        self.news = threading.Condition()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def update(self) -> None:
        """From the worker's thread."""
        request = self.request
        with self.news:
            self.pieces += [piece for _, piece in request.take_events() if piece]
            if request.error is not None:
                self.future.set_exception(request.error)
            elif request.finished:
                self.future.set_result(request.results)
            self.news.notify_all()
            for loop, event in self._waiters:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(event.set)

    def wait(self, taken: int) -> list[str]:
        """The pieces behind the first `taken`, as soon as there are some; none at the end."""
        with self.news:
            self.news.wait_for(lambda: len(self.pieces) > taken or self.future.done())
            return self.pieces[taken:]

    async def wait_async(self, taken: int) -> list[str]:
        """`wait` for a coroutine."""
        import asyncio

        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self.news:
            self._waiters.append(waiter)
            ready = len(self.pieces) > taken or self.future.done()
        try:
            while not ready:
                await waiter[1].wait()
                with self.news:
                    waiter[1].clear()
                    ready = len(self.pieces) > taken or self.future.done()
        finally:
            with self.news:
                self._waiters.remove(waiter)
        return self.pieces[taken:]


class Worker:
    """It does not know its engine, so that one that is dropped can end it."""

    def __init__(self, model: Model) -> None:
        self._scheduler = Scheduler(model)
        self._wake = threading.Condition()
        self._inbox: list[Delivery] = []
        self._deliveries: dict[Request, Delivery] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="qkv-engine", daemon=True)
        self._thread.start()

    def add(self, delivery: Delivery) -> None:
        """Raises:
        qkv.Error: the request needs more pages than there can be, or the worker has ended.
        """
        self._scheduler.check_fits(delivery.request)
        with self._wake:
            if self._closed:
                raise Error("the engine is closed")
            self._inbox.append(delivery)
            self._wake.notify()

    def cancel(self, request: Request) -> None:
        """From any thread. A run that mostly works for requests that were cancelled is given up."""
        request.cancelled = True
        self._scheduler.give_up_if_pointless()

    def close(self) -> None:
        """Cancel all requests and end the thread; safe to call twice."""
        with self._wake:
            self._closed = True
            for delivery in [*self._inbox, *self._deliveries.values()]:
                delivery.request.cancelled = True
            self._wake.notify()
        self._scheduler.give_up_if_pointless()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _serve(self) -> None:
        while self._take_in():
            try:
                moved = self._scheduler.step()
            except Cancelled:
                continue
            except Exception as error:  # of the run, not of one request: none of them can go on
                moved = self._scheduler.fail(error)
            for request in moved:
                self._deliveries[request].update()
                if request.finished:
                    del self._deliveries[request]

    def _take_in(self) -> bool:
        """Wait for work; False when there will be none."""
        with self._wake:
            self._wake.wait_for(lambda: self._inbox or self._scheduler.busy or self._closed)
            for delivery in self._inbox:
                self._deliveries[delivery.request] = delivery
                self._scheduler.add(delivery.request)
            self._inbox = []
            return self._scheduler.busy or not self._closed
