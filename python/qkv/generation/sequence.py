"""A text on its way through the model: its tokens, and the pages of their keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.generation.pool import PagePool, pages_for
from qkv.generation.prefixes import NO_PAGE, Place

if TYPE_CHECKING:
    from qkv.model import Model
    from qkv.source import Source

_PAGE = _ext.page_tokens


class CachedSequence:
    """Tokens and their pages. Whole pages can be found by other texts that begin alike as soon as they are filled, and
    the last one when the sequence is released. That of a fork is not: beams are dropped at every step, and theirs would
    fill the cache.

    Attributes:
        ids: the tokens that are certain: of the prompt, or of a decoder's start, and those written since.
        past: how many of them have keys and values in the cache.
        pages: that hold these; NO_PAGE where no layer looks any more.
        planned: tokens that it will have at most in the end; rotary angles may depend on it.
        source: what an encoder read for it. The keys and values depend on that, too, so its pages are for it alone.
    """

    __slots__ = ("_class", "_forked", "_place", "_pool", "ids", "pages", "past", "planned", "shared", "source")

    def __init__(self, pool: PagePool, ids: Sequence[int], planned: int, source: Source | None = None) -> None:
        self._pool = pool
        self.ids = list(ids)
        self.past = 0
        self.pages: list[int] = []
        self.planned = planned
        self.source = source
        self._class = pool.rotary_class(planned)
        self.shared = source is None
        self._place = Place()
        self._forked = False

    def __repr__(self) -> str:
        return f"<qkv.CachedSequence of {len(self.ids)} tokens, {self.past} cached, pages {self.pages}>"

    def match(self, most: int | None = None) -> None:
        """Take over the longest cached prefix of at most `most` tokens; by default a token is left to be run. Before
        the first run."""
        if self.shared and not self.pages:
            found = self._pool.find(self.ids[: -1 if most is None else most], self._class)
            self.pages, self.past = found.pages, found.positions

    def adopt(self, pages: Sequence[int], past: int, *, shared: bool) -> None:
        """Begin with pages that somebody else holds, too, and that have the first `past` tokens. Instead of `match`.

        With `shared` False nobody else finds what is written behind them.
        """
        self.pages, self.past, self.shared = self._pool.retain(pages), past, shared

    def grow(self, positions: int) -> None:
        """Have pages for so many positions, and none behind `past` that somebody else could see written to.

        Raises:
            qkv.Error: every page of the pool is in use.
        """
        first = self.past // _PAGE
        for i in range(first, len(self.pages)):
            self.pages[i] = self._pool.own(self.pages[i], max(0, self.past - i * _PAGE))
        while len(self.pages) < pages_for(positions):
            self.pages.append(self._pool.allocate())

    def advance(self, tokens: int) -> None:
        """So many more of `ids` are in the cache."""
        for each in _ext.advance([self], [tokens]):
            each.page_is_full()

    def page_is_full(self) -> None:
        """`past` has come to the end of a page, or went beyond."""
        assert self.past <= len(self.ids)
        if self.shared:
            self._pool.keep(self.ids, self.past // _PAGE * _PAGE, self._class, self.pages, self._place)
        self._free_unseen()

    def _free_unseen(self) -> None:
        """Pages that lie wholly before what the next token sees, in every layer."""
        reach = self._pool.reach
        if reach is None:
            return
        for i in range(max(0, self.past - reach) // _PAGE):
            page, self.pages[i] = self.pages[i], NO_PAGE
            self._pool.release([page])

    def fork(self, given_up: CachedSequence | None = None) -> CachedSequence:
        """Another sequence that begins like this one. They share all pages until one writes to them.

        `given_up`: is released. If it began like this one, too, its last page serves the new one: only what differs is
        copied, and not all of it when the page is written to. Rival beams mostly differ by a few tokens.
        """
        other = CachedSequence(self._pool, self.ids, self.planned, self.source)
        other.adopt(self.pages, self.past, shared=self.shared)
        other._place, other._forked = replace(self._place), True
        if given_up is not None:
            if given_up._forked or not given_up.shared:  # otherwise others may find its last page
                other._take_last_page(given_up)
            given_up.release()
        return other

    def _take_last_page(self, other: CachedSequence) -> None:
        """Where the page is the only one that differs, begins alike, and nobody else has it."""
        start = len(self.pages) * _PAGE - _PAGE
        alike, end = min(_alike(self.ids, other.ids), self.past, other.past) - start, self.past - start
        fits = alike > 0 and end < _PAGE and other.pages[:-1] == self.pages[:-1]
        if fits and self._pool.cache.references(other.pages[-1]) == 1:
            self._pool.copy(self.pages[-1], other.pages[-1], alike, end)
            self.pages[-1], other.pages[-1] = other.pages[-1], self.pages[-1]
            other.past = start  # of the page that it has now, nothing is its own

    def release(self) -> None:
        """Give the pages back; safe to call twice. The tokens stay."""
        if self.shared and self.past and not self._forked:
            # From the root: the whole text is what was used last.
            self._pool.keep(self.ids, self.past, self._class, self.pages, Place())
        self.past = 0
        self._pool.release(self.pages)


def _alike(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginning."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[low:middle] == b[low:middle] else (low, middle - 1)
    return low


def read(
    model: Model,
    sequences: list[CachedSequence],
    counts: Sequence[int],
    rows: Sequence[int],
    drafts: list[Sequence[int]] | None = None,
    outputs: Sequence[str] = ("logits",),
    cancel: _ext.Cancel | None = None,
) -> list[NDArray[np.float32]]:
    """One run for parts of some sequences, which get the pages that they need, and advance.

    Args:
        counts: how many ids of each sequence are read, from `past` on.
        rows: for how many of the last tokens of each the logits are wanted.
        drafts: tokens that each reads behind its own, on trial: they are in the cache, but behind `past`.
        outputs: of the program; an array for each.

    Raises:
        qkv.Error: every page of the pool is in use.
        qkv.Cancelled: another thread set `cancel`.
    """
    batch = _ext.Batch.of_sequences(model.kv_pool.cache, sequences, counts, rows, drafts or [])
    arrays = model.run_batch(outputs, batch, cancel)
    for sequence in _ext.advance(sequences, counts):  # a call for all of them
        sequence.page_is_full()
    return arrays
