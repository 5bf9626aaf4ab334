"""The KV cache pages of one sequence."""

from __future__ import annotations

from collections.abc import Iterable

from qkv import _ext


def positions_for(lengths: Iterable[int]) -> int:
    """Positions that a cache must have for sequences of these lengths: each fills whole pages."""
    return sum(-(-length // _ext.page_tokens) for length in lengths) * _ext.page_tokens


class SequencePages:
    """The pages that one sequence owns, in order of position.

    `release` gives back exactly what was allocated, whatever happens: a page is listed once it is owned.
    """

    def __init__(self, cache: _ext.KVCache) -> None:
        self._cache = cache
        self.ids: list[int] = []

    def grow(self, positions: int) -> None:
        """Own enough pages for `positions` positions.

        Raises:
            qkv.Error: the cache is full.
        """
        while len(self.ids) * _ext.page_tokens < positions:
            self.ids.append(self._cache.allocate())

    def release(self) -> None:
        """Give all pages back; safe to call twice."""
        while self.ids:
            self._cache.release(self.ids.pop())
