"""What an encoder found, kept for the decoder that reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qkv import _ext
from qkv.errors import Error

if TYPE_CHECKING:
    from qkv.generation.pool import PagePool, Reservation

# Source tokens in one run. It bounds the memory of activations; results do not depend on it.
SOURCE_TOKENS = 2048


class SourcePages:
    """The pages of one text that an encoder read. They are given back by `release`, or when nobody has them any more.

    Attributes:
        length: tokens of the text.
        ids: the pages.
    """

    def __init__(self, pool: PagePool, length: int, reservation: Reservation) -> None:
        """`reservation`: of these pages alone."""
        self._pool = pool
        self._reservation = reservation
        self.length = length
        self.ids: list[int] = []
        while len(self.ids) < reservation.pages:
            self.ids.append(pool.allocate())

    def release(self) -> None:
        """No run may read the pages any more; safe to call twice."""
        self._pool.release(self.ids)
        self._reservation.release()

    def __del__(self) -> None:
        self._pool.release(self.ids)  # the reservation forgets itself


@dataclass(frozen=True)
class Source:
    """Keys and values of some source texts' tokens, for the cross-attention of every decoder layer.

    Attributes:
        cache: where they are.
        texts: the pages of each.
    """

    cache: _ext.KVCache
    texts: tuple[SourcePages, ...]

    @property
    def lengths(self) -> list[int]:
        """[sequences] of tokens."""
        return [text.length for text in self.texts]

    @property
    def pages(self) -> list[list[int]]:
        """Of each sequence."""
        return [text.ids for text in self.texts]

    @staticmethod
    def empty(pool: PagePool, lengths: Sequence[int], reservation: Reservation | None = None) -> Source:
        """Room for texts of these lengths. `reservation` of enough pages is taken over.

        Raises:
            qkv.Error: there is no room for so many, or, without a `reservation`, not at the moment.
        """
        counts = [-(-length // _ext.page_tokens) for length in lengths]
        room = reservation or pool.reserve(sum(counts))
        if room is None:
            raise Error(
                f"texts of {sum(lengths)} tokens do not fit beside those that the model's decoder reads at the moment "
                f"({pool!r}); try again later, or open the model with a larger kv_cache_bytes"
            )
        texts = (SourcePages(pool, length, room.split(count)) for length, count in zip(lengths, counts, strict=True))
        return Source(pool.cache, tuple(texts))

    def release(self) -> None:
        """Give the pages back; no run may read them again. Safe to call twice."""
        for text in self.texts:
            text.release()

    def part(self, indices: Sequence[int]) -> Source:
        """Some of the sequences, each as often as it is named; the pages are the same."""
        return Source(self.cache, tuple(self.texts[i] for i in indices))


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
