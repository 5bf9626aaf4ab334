"""Sequences on a pool: nothing leaks, is freed twice or overwritten, whatever comes when."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.generation.marked_pages import check_keys, make_pool, run

import qkv
from qkv.generation.pool import Reservation, pages_for
from qkv.generation.sequence import CachedSequence

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

    @rule(ids=TEXTS, more=st.sampled_from([1, 5, 90]), tokens=st.sampled_from([0, 50, 1000, 1000]), stay=st.booleans())
    def start(self, ids: list[int], more: int, tokens: int, stay: bool) -> None:
        if reservation := self.reserve(len(ids) + more):
            sequence = CachedSequence(self.pool, ids, len(ids) + more)
            sequence.match()
            assert sequence.past < len(ids)
            check_keys(self.pool, sequence)
            run(self.pool, sequence, min(tokens, len(ids) - sequence.past))
            self.running.append((sequence, reservation))
            if not stay:
                self.release(len(self.running) - 1)

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

    @precondition(lambda self: len(self.running) > 1)
    @rule(data=st.data())
    def fork_in_place_of_another(self, data: st.DataObject) -> None:
        ours, theirs = data.draw(st.permutations(range(len(self.running))))[:2]
        (sequence, _), (given_up, reservation) = self.running[ours], self.running[theirs]
        if sequence.planned <= given_up.planned:
            self.running[theirs] = (sequence.fork(given_up), reservation)
            assert given_up.pages == []

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.release(data.draw(st.integers(0, len(self.running) - 1)))

    def release(self, index: int) -> None:
        sequence, reservation = self.running.pop(index)
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


Life.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestLife = Life.TestCase
