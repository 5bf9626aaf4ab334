"""What an encoder found, kept for the decoder that reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from qkv import _ext
from qkv.graph import CacheShape

# Source tokens in one run. It bounds the memory of activations; results do not depend on it.
SOURCE_TOKENS = 2048


@dataclass(frozen=True)
class Source:
    """Keys and values of some source texts' tokens, for the cross-attention of every decoder layer.

    Attributes:
        lengths: [sequences] of tokens.
        cache, pages: where they are, and the pages of each sequence. The memory lives as long as the cache.
    """

    lengths: list[int]
    cache: _ext.KVCache
    pages: list[list[int]]

    @staticmethod
    def empty(shape: CacheShape, lengths: Sequence[int]) -> Source:
        """Room for sequences of these lengths."""
        counts = [-(-length // _ext.page_tokens) for length in lengths]
        cache = shape.cache(max(1, sum(counts)))  # of no sequences, too
        return Source(list(lengths), cache, [[cache.allocate() for _ in range(count)] for count in counts])

    @staticmethod
    def joined(sources: Sequence[Source]) -> Source:
        """Sequences of one cache together."""
        lengths = [length for source in sources for length in source.lengths]
        return Source(lengths, sources[0].cache, [pages for source in sources for pages in source.pages])

    def release(self) -> None:
        """Give the pages back; no run may read them again."""
        for pages in self.pages:
            while pages:
                self.cache.release(pages.pop())

    def part(self, indices: Sequence[int]) -> Source:
        """Some of the sequences, each as often as it is named."""
        return Source([self.lengths[i] for i in indices], self.cache, [self.pages[i] for i in indices])


def split_in_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of sequences that one run encodes together."""
    some: list[int] = []
    for i, length in enumerate(lengths):
        if some and sum(lengths[j] for j in some) + length > SOURCE_TOKENS:
            yield some
            some = []
        some.append(i)
    if some:
        yield some
