"""The scheduler: all requests of a model as one continuous batch, one run of the program per step."""

from __future__ import annotations

import bisect
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.batches import PREFILL_TOKENS
from qkv.errors import Error
from qkv.generation.pool import pages_for
from qkv.generation.shares import Outcome, Plan, Share
from qkv.source import SOURCE_TOKENS, Source

if TYPE_CHECKING:
    from qkv.generation.pool import PagePool, Reservation
    from qkv.generation.request import Request
    from qkv.model import Model

# Of prompts in one run where texts are being written: how long these wait for a prompt.
PREFILL_TOKENS_BESIDE_DECODING = 128
# Sequences that are written at once: more of them hardly give more tokens a second.
MOST_SEQUENCES = 64
# Seconds of waiting for room after which to look for requests that were cancelled.
_PATIENCE = 0.05


@dataclass
class _Admission:
    """Room for a request: for its own pages, and for those of what its encoder reads."""

    request: Request
    pages: Reservation
    source: Reservation | None


class Scheduler:
    """Not for several threads at once; any number of schedulers may share a model.

    Requests wait in the order of their priority, then of their arrival, and none overtakes another that waits. Running
    requests are never interrupted: each has reserved all pages that it can come to need. Every run takes the next
    token of all texts that are being written, and some prompt tokens of those that are not there yet.
    """

    def __init__(self, model: Model) -> None:
        if "logits" not in model.program.outputs or model.program.rows("logits") != "logits":
            raise Error("this model has no head that predicts the next token: there is nothing to generate")
        self._model = model
        self._pool = model.kv_pool
        self._pools = [model.kv_pool, model.source_pool] if model.encoder else [model.kv_pool]
        self._waiting: list[Request] = []
        self._running: list[Request] = []
        self._hidden: dict[Request, list[NDArray[np.float32]]] = {}
        self._done: list[Request] = []  # finished or gone on, and not yet reported
        self._lacking: tuple[PagePool, int] | None = None  # what the first one that waits finds no room for
        self._next = Plan([], model.logit_outputs)
        self._at_work: list[Share] = []  # of the current run
        self._cancel = _ext.Cancel()

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running or self._done)

    def check_fits(self, request: Request) -> None:
        """From any thread.

        Raises:
            qkv.Error: the request needs more pages than there can be.
        """
        self._pool.check_fits(request.pages)
        if request.source:
            self._model.source_pool.check_fits(pages_for(len(request.source)))

    def add(self, request: Request) -> None:
        """Let it wait for its turn.

        Raises:
            qkv.Error: as `check_fits`.
        """
        self.check_fits(request)
        bisect.insort(self._waiting, request, key=lambda r: r.order)

    def step(self) -> list[Request]:
        """One run; returns the requests that are finished, or have new tokens and someone who reads along.

        Raises:
            qkv.Error: no request can run, because others hold all pages and do nothing.
            Exception: what the run itself raises; the requests can go on after it.
        """
        self._end_early()
        started = time.perf_counter()
        self._admit()
        plan = self._plan()
        if plan.shares:
            self._set_to_work(plan.shares)
            self._advance(plan, plan.run(self._model, self._cancel))
            for pool in self._pools:
                pool.note_run()
            self._note(plan.shares, time.perf_counter() - started)
        elif self._lacking and not self._done:
            self._lacking[0].wait_for_room(self._lacking[1], _PATIENCE)
        done, self._done = self._done, []
        return done

    def _note(self, shares: Sequence[Share], seconds: float) -> None:
        """After a run: who has got how far."""
        any_ended = False
        for share in shares:
            request = share.request
            if request.prefilling:
                request.prefill_seconds += seconds
            else:
                request.decode_seconds += seconds
            if not share.rows:
                continue
            request.prefilling = False
            assert request.search
            if ended := request.error is not None or request.search.finished:
                any_ended = True
                if request.error is None:
                    request.finish()
            if ended or request.live:
                self._done.append(request)
        if any_ended:
            self._running = [r for r in self._running if not r.finished]

    def fail(self, error: Exception) -> list[Request]:
        """End all requests with this error; returns them."""
        failed = [*self._running, *self._waiting]
        for request in failed:
            request.fail(error)
        done = [*self._done, *failed]
        self.close()
        return done

    def give_up_if_pointless(self) -> None:
        """From any thread: stop the current run if most of its tokens belong to requests that were cancelled. The
        others' part of it, the smaller one, is done again."""
        at_work = self._at_work
        pointless = sum(share.tokens for share in at_work if share.request.cancelled)
        if 2 * pointless > sum(share.tokens for share in at_work):
            self._cancel.set()

    def _set_to_work(self, shares: list[Share]) -> None:
        self._cancel = _ext.Cancel()
        self._at_work = shares

    def close(self) -> None:
        """Give back all that unfinished requests hold."""
        for request in [*self._running, *self._waiting]:
            request.release()
        self._running, self._waiting, self._done, self._hidden = [], [], [], {}
        self._next = Plan([], self._model.logit_outputs)

    def _end_early(self) -> None:
        """Requests that were cancelled or whose time is over."""
        now = time.perf_counter()
        for requests in (self._running, self._waiting):
            for request in requests[:]:
                if request.cancelled or now > request.deadline:
                    request.finish("cancelled" if request.cancelled else "time")
                    self._hidden.pop(request, None)
                    requests.remove(request)
                    self._done.append(request)

    def _admit(self) -> None:
        """Let those that wait in front run, as long as there is room."""
        self._lacking = None
        if not self._waiting:
            return
        admitted: list[_Admission] = []
        sequences = sum(r.kind.lanes(r.options) for r in self._running)
        source_tokens = 0
        for request in self._waiting:
            sequences += request.kind.lanes(request.options)
            source_tokens += len(request.source)
            alone = not self._running and not admitted
            if not alone and (sequences > MOST_SEQUENCES or source_tokens > SOURCE_TOKENS):
                break
            room = self._reserve(request)
            if room is None:
                break
            admitted.append(room)
        if admitted:
            self._begin(admitted)

    def _reserve(self, request: Request) -> _Admission | None:
        """Room for a request and for what its encoder reads; None if there is not enough at the moment."""
        pages = self._pool.reserve(request.pages)
        if pages is None:
            self._lacking = (self._pool, request.pages)
            return None
        source = None
        if request.source:
            pool, wanted = self._model.source_pool, pages_for(len(request.source))
            source = pool.reserve(wanted)
            if source is None:
                self._lacking = (pool, wanted)
                pages.release()
                return None
        return _Admission(request, pages, source)

    def _begin(self, admitted: Sequence[_Admission]) -> None:
        started = time.perf_counter()
        sources: list[Source | None] = [None] * len(admitted)
        try:
            if self._model.encoder:
                read = self._read_sources(admitted)
                sources = [read.part([i]) for i in range(len(admitted))]
        except BaseException:  # an interruption, too: they go on waiting
            for room in admitted:
                room.pages.release()
            raise
        seconds = time.perf_counter() - started
        del self._waiting[: len(admitted)]
        for room, source in zip(admitted, sources, strict=True):
            request = room.request
            try:
                request.begin(room.pages, source)
            except Exception as error:  # such as a state that was released meanwhile: it concerns this request alone
                request.fail(error)
                self._done.append(request)
                continue
            if source:
                request.prefill_seconds += seconds
            self._running.append(request)
        self._running.sort(key=lambda r: r.order)

    def _read_sources(self, admitted: Sequence[_Admission]) -> Source:
        together, *others = [room.source for room in admitted if room.source]
        for other in others:
            together.join(other)
        sequences = [np.array(room.request.source, np.int32) for room in admitted]
        self._set_to_work([Share(room.request, [], [], len(room.request.source), 0) for room in admitted])
        try:
            return self._model.read_source(sequences, together, self._cancel)
        finally:
            together.release()  # what was not taken over

    def _plan(self) -> Plan:
        """The next run."""
        shares = [Share.next(r) for r in self._running if not r.prefilling]
        if len(shares) < len(self._running):
            self._plan_prompts(shares, PREFILL_TOKENS_BESIDE_DECODING if shares else PREFILL_TOKENS)
        if shares != self._next.shares:
            shares.sort(key=lambda share: share.request.kind.__name__)
            self._next = Plan(shares, self._model.logit_outputs)
        return self._next

    def _plan_prompts(self, shares: list[Share], room: int) -> None:
        """Add parts of prompts, at most `room` tokens of them."""
        beginnings: set[tuple[int, ...]] = set()  # the first pages of prompts that are being read
        for request in self._running:
            if not request.prefilling or room == 0:
                continue
            first = tuple(request.start[: _ext.page_tokens])
            if request.unread and first in beginnings:
                continue  # it waits for the other, and shares what that has read
            beginnings.add(first)
            request.match()
            share = Share.of_prompt(request, room)
            room -= share.tokens
            shares.append(share)

    def _advance(self, plan: Plan, made: Outcome) -> None:
        """Hand what the run made to the searches, those of one kind together."""
        if made.hidden is not None:
            self._keep_hidden(plan.shares, made.hidden)
        for requests, together, rows, wants_hidden in plan.groups:
            hidden = [self._hidden_of(r) for r in requests] if wants_hidden else [None] * len(requests)
            errors = together.advance(*made.part(rows), hidden)
            for request, error in zip(requests, errors, strict=True):
                if error is not None:
                    request.fail(error)

    def _keep_hidden(self, shares: Sequence[Share], hidden: NDArray[np.float32]) -> None:
        """For the searches that want them: until all of a prompt has been read."""
        token = 0
        for share in shares:
            if share.request.kind.wants_hidden:
                self._hidden.setdefault(share.request, []).append(hidden[token : token + share.tokens])
            token += share.tokens

    def _hidden_of(self, request: Request) -> NDArray[np.float32] | None:
        pieces = self._hidden.pop(request, None)
        return np.concatenate(pieces) if pieces else None
