"""The pool of pages and the sequences on it: nothing is leaked, freed twice or overwritten, whatever comes in what order."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import qkv
from qkv import _ext
from qkv.generation.pool import PagePool, Reservation, pages_for
from qkv.generation.sequence import CachedSequence
from qkv.graph import CacheShape

SHAPE = CacheShape(layers=1, kv_heads=1, head_dim=1, dtype="float32")
PAGE = _ext.page_tokens


@dataclass
class Program:
    """What a pool asks of a program."""

    reach: int | None = None

    def rotary_class(self, planned: int) -> int:
        return 0 if planned <= 500 else planned


def make_pool(pages: int, reach: int | None = None) -> PagePool:
    return PagePool(SHAPE, pages * SHAPE.page_nbytes, Program(reach))  # type: ignore[arg-type]


def read_keys(pool: PagePool, page: int) -> np.ndarray:
    return pool.cache.read(page, PAGE)[: PAGE * 4].view(np.float32)


def mark(ids: list[int]) -> float:
    """What stands for the key of the last of these tokens: it depends on all of them."""
    return float(zlib.crc32(np.array(ids, np.int32).tobytes()) & 0xFFFFFF)


def run(pool: PagePool, sequence: CachedSequence, tokens: int, trial: int = 0) -> None:
    """What the scheduler does; the keys of positions on trial are nonsense."""
    past = sequence.past
    sequence.grow(past + tokens + trial)
    for position in range(past, past + tokens + trial):
        page, slot = sequence.pages[position // PAGE], position % PAGE
        data = pool.cache.read(page, PAGE)
        assert pool.cache.references(page) == 1
        key = mark(sequence.ids[: position + 1]) if position < past + tokens else -1.0
        data[: PAGE * 4].view(np.float32)[slot] = key
        pool.cache.write(page, data)
    sequence.advance(tokens)


def check_keys(pool: PagePool, sequence: CachedSequence) -> None:
    for i, page in enumerate(sequence.pages[: pages_for(sequence.past)]):
        if page < 0:
            assert pool.reach is not None
            assert (i + 1) * PAGE <= sequence.past - pool.reach
            continue
        keys = read_keys(pool, page)
        for position in range(i * PAGE, min((i + 1) * PAGE, sequence.past)):
            assert keys[position - i * PAGE] == mark(sequence.ids[: position + 1])


# Texts that begin alike, and part at the borders of pages and between them.
BEGINNINGS = [[family] * 20 + [7] * length for family in (1, 2) for length in (1, 43, 44, 45, 108, 170)]
TEXTS = st.tuples(
    st.sampled_from(BEGINNINGS), st.lists(st.integers(0, 2), max_size=3), st.sampled_from([0, 1, 30, 64, 130])
).map(lambda t: t[0] + t[1] + [9] * t[2])


class Life(RuleBasedStateMachine):
    """Sequences come and go on a small pool."""

    @initialize(pages=st.integers(7, 30), reach=st.sampled_from([None, None, 0, 40, 100]))
    def make(self, pages: int, reach: int | None) -> None:
        self.pool = make_pool(pages, reach)
        self.running: list[tuple[CachedSequence, Reservation]] = []

    def reserve(self, planned: int) -> Reservation | None:
        pages = pages_for(planned) + 1  # and one that is copied, while it is
        if pages > self.pool.max_pages:
            with pytest.raises(qkv.Error, match="kv_cache_bytes"):
                self.pool.reserve(pages)
            return None
        return self.pool.reserve(pages)

    @rule(ids=TEXTS, more=st.sampled_from([1, 50, 400]))
    def start(self, ids: list[int], more: int) -> None:
        if reservation := self.reserve(len(ids) + more):
            sequence = CachedSequence(self.pool, ids, len(ids) + more)
            sequence.match()
            assert sequence.past < len(ids)
            self.running.append((sequence, reservation))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        sequence, _ = data.draw(st.sampled_from(self.running))
        pending = len(sequence.ids) - sequence.past
        if pending == 0 and len(sequence.ids) < sequence.planned:
            new = data.draw(st.sampled_from([[0], [7], [9] * 5, [7] * 70]))
            sequence.ids += new[: sequence.planned - len(sequence.ids)]
            pending = len(sequence.ids) - sequence.past
        tokens = data.draw(st.sampled_from([pending, min(pending, 1), min(pending, 60)]))
        trial = data.draw(st.integers(0, min(3, sequence.planned - sequence.past - tokens)))
        run(self.pool, sequence, tokens, trial)
        check_keys(self.pool, sequence)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        sequence, _ = data.draw(st.sampled_from(self.running))
        if reservation := self.reserve(sequence.planned):
            self.running.append((sequence.fork(), reservation))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        sequence, reservation = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        for _ in range(2):
            sequence.release()
            reservation.release()

    @rule()
    def clear(self) -> None:
        self.pool.clear()
        assert self.pool.pages_cached == 0

    @invariant()
    def check(self) -> None:
        if not hasattr(self, "pool"):
            return
        held: dict[int, int] = {}
        for sequence, _ in self.running:
            check_keys(self.pool, sequence)
            for page in sequence.pages:
                if page >= 0:
                    held[page] = held.get(page, 0) + 1
        for node in self.pool._prefixes._used:
            held[node.page] = held.get(node.page, 0) + 1
        assert held == {page: self.pool.cache.references(page) for page in held}
        assert len(held) == self.pool.pages_in_use <= self.pool.max_pages
        assert sum(r.pages for _, r in self.running) == self.pool.reserved <= self.pool.max_pages

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        for sequence, reservation in self.running:
            sequence.release()
            reservation.release()
        assert self.pool.pages_in_use == self.pool.pages_cached
        self.pool.clear()
        assert self.pool.pages_in_use == 0
        assert self.pool.reserved == 0
        assert not self.pool._prefixes._roots


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase
