"""Guesses of a smaller model with the same vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qkv.batches import PREFILL_TOKENS
from qkv.generation.pool import pages_for
from qkv.generation.sampling import choose_one
from qkv.generation.sequence import CachedSequence, read

if TYPE_CHECKING:
    from qkv import _ext
    from qkv.model import Model


# Guesses after a wrong one, at least.
_FEW = 2


class DraftModel:
    """Guesses as many tokens as were right the last time and one more, or twice as many where all were.

    Args:
        model: a decoder.
        prompt: token ids.
        planned: tokens of the text in the end, at most.
        filters: of sampling; None: greedy.
        draw: the random number of a new token, by its number.
    """

    def __init__(
        self,
        model: Model,
        prompt: Sequence[int],
        planned: int,
        filters: _ext.SamplingFilters | None,
        draw: Callable[[int], float],
    ) -> None:
        self._model = model
        self._start = len(prompt)
        self._planned = min(planned, model.context_length or planned)
        self._filters = filters
        self._draw = draw
        self._guessed = 0  # tokens, in the last call
        self._next: int | None = None
        self._sequence = CachedSequence(model.kv_pool, prompt, self._planned)
        # without room, or within a shorter context, there are no guesses; the text is the same
        pool, pages = model.kv_pool, pages_for(self._planned) + 1
        self._reservation = pool.reserve(pages) if pages <= pool.max_pages else None
        if self._reservation and self._start < self._planned:
            self._sequence.match()

    def draft(self, ids: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens behind `ids`."""
        sequence = self._sequence
        agreed = self._start
        while agreed < min(len(ids), len(sequence.ids)) and sequence.ids[agreed] == ids[agreed]:
            agreed += 1
        if self._guessed:
            right = agreed - (len(sequence.ids) - self._guessed)
            self._next = 2 * right if right == self._guessed else max(_FEW, right + 1)
        sequence.past = min(sequence.past, agreed)
        sequence.ids[agreed:] = ids[agreed:]
        room = self._planned - len(ids) if self._reservation else 0
        self._guessed = max(0, min(most, room, self._next or most))
        while len(sequence.ids) < len(ids) + self._guessed:
            token = choose_one(self._filters, self._logits(), self._draw(len(sequence.ids) - self._start), "draft")
            sequence.ids.append(token)
        return sequence.ids[len(ids) :]

    def release(self) -> None:
        self._sequence.release()
        if self._reservation:
            self._reservation.release()
            self._reservation = None

    def _logits(self) -> NDArray[np.float32]:
        """Behind the last token."""
        sequence = self._sequence
        while True:
            count = min(len(sequence.ids) - sequence.past, PREFILL_TOKENS)
            (rows,) = read(self._model, [sequence], [count], [1])
            if sequence.past == len(sequence.ids):
                return rows[0]  # type: ignore[no-any-return]
