"""The KV cache pages of one sequence."""

from __future__ import annotations

from qkv import _ext


def pages_for(positions: int) -> int:
    """How many pages hold that many positions."""
    return -(-positions // _ext.page_tokens)


class SequencePages:
    """The pages that one sequence owns, in order of position.

    Whatever happens, `release` gives back exactly what was allocated: a page is listed as soon as it is owned.
    """

    def __init__(self, cache: _ext.KVCache) -> None:
        self._cache = cache
        self.ids: list[int] = []

    def grow(self, positions: int) -> None:
        """Own enough pages for `positions` positions.

        Raises:
            qkv.Error: the cache is full.
        """
        while len(self.ids) < pages_for(positions):
            self.ids.append(self._cache.allocate())

    def release(self) -> None:
        """Give all pages back; safe to call twice."""
        while self.ids:
            self._cache.release(self.ids.pop())
