"""A text on its way through the model: its tokens, and the pages of their keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from qkv import _ext
from qkv.generation.pool import PagePool, pages_for
from qkv.generation.prefixes import NO_PAGE

if TYPE_CHECKING:
    from qkv.source import Source


class CachedSequence:
    """Tokens and their pages. Whole pages can be found by other texts that begin alike as soon as they are filled, and
    the last one when the sequence is released.

    Attributes:
        ids: the tokens that are certain: of the prompt, or of a decoder's start, and those written since.
        past: how many of them have keys and values in the cache.
        pages: that hold these; NO_PAGE where no layer looks any more.
        planned: tokens that it will have at most in the end; rotary angles may depend on it.
        source: what an encoder read for it. The keys and values depend on that, too, so its pages are for it alone.
    """

    def __init__(self, pool: PagePool, ids: Sequence[int], planned: int, source: Source | None = None) -> None:
        self._pool = pool
        self.ids = list(ids)
        self.past = 0
        self.pages: list[int] = []
        self.planned = planned
        self.source = source
        self._class = pool.rotary_class(planned)
        self._shared = source is None

    def __repr__(self) -> str:
        return f"<qkv.CachedSequence of {len(self.ids)} tokens, {self.past} cached, pages {self.pages}>"

    def match(self) -> None:
        """Take over the longest cached prefix, but leave a token to be run. Before the first run."""
        if self._shared and not self.pages:
            found = self._pool.find(self.ids[:-1], self._class)
            self.pages, self.past = found.pages, found.positions

    def grow(self, positions: int) -> None:
        """Have pages for so many positions, and none behind `past` that somebody else could see written to.

        Raises:
            qkv.Error: every page of the pool is in use.
        """
        first = self.past // _ext.page_tokens
        for i in range(first, len(self.pages)):
            self.pages[i] = self._pool.own(self.pages[i], max(0, self.past - i * _ext.page_tokens))
        while len(self.pages) < pages_for(positions):
            self.pages.append(self._pool.allocate())

    def advance(self, tokens: int) -> None:
        """After a run: so many more of `ids` are in the cache."""
        before, self.past = self.past, self.past + tokens
        assert self.past <= len(self.ids)
        whole = self.past // _ext.page_tokens
        if whole == before // _ext.page_tokens:
            return
        if self._shared:
            self._pool.keep(self.ids[: whole * _ext.page_tokens], self._class, self.pages)
        self._free_unseen()

    def _free_unseen(self) -> None:
        """Pages that lie wholly before what the next token sees, in every layer."""
        reach = self._pool.reach
        if reach is None:
            return
        for i in range(max(0, self.past - reach) // _ext.page_tokens):
            page, self.pages[i] = self.pages[i], NO_PAGE
            self._pool.release([page])

    def fork(self) -> CachedSequence:
        """Another sequence that begins like this one. They share all pages until one writes to them."""
        other = CachedSequence(self._pool, self.ids, self.planned, self.source)
        other.past, other.pages = self.past, self._pool.retain(self.pages)
        other._shared = self._shared
        return other

    def release(self, keep: bool = True) -> None:
        """Give the pages back; safe to call twice. The tokens stay. Without `keep` the last page, if it is not full, is
        not kept for others to find: of a text that was tried and rejected."""
        if keep and self._shared and self.past:
            self._pool.keep(self.ids[: self.past], self._class, self.pages)
        self.past = 0
        self._pool.release(self.pages)
