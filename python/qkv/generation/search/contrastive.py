"""Contrastive search: likely tokens that are unlike what is there already."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.errors import Error
from qkv.generation.search.base import Feed, Found, Search, Task
from qkv.generation.search.line import Line

if TYPE_CHECKING:
    from qkv.generation.options import Options
    from qkv.generation.sequence import CachedSequence


@dataclass(frozen=True)
class _Candidate:
    """
    Attributes:
        sequence: the line's with this token, which the model is to read.
        probability: of the token.
    """

    sequence: CachedSequence
    probability: float


class ContrastiveSearch(Search):
    """Of the `top_k` likeliest tokens v, the one with the largest (Su et al. 2022, equation 5)

        (1 - alpha) p(v | x) - alpha max_j cos(h_v, h_j)

    where h are the last hidden states of v and of each token j of x before it. To know h_v, the model reads every
    candidate. As in Hugging Face, p is taken of the logits as the rules leave them.
    """

    wants_hidden: ClassVar[bool] = True

    def __init__(self, sequence: CachedSequence, task: Task) -> None:
        options = task.options
        assert options.penalty_alpha is not None
        assert options.top_k is not None
        self._alpha, self._top_k = options.penalty_alpha, options.top_k
        self._task = task
        self._line = Line(sequence, task)
        self._candidates: list[_Candidate] = []
        self._behind = np.empty((1, 0), np.float32)  # the model's own logits behind the line, where these are noted
        # Hidden states of the line's tokens, divided by their norms: [tokens so far at least, hidden_size].
        self._directions = np.empty((0, 0), np.float32)

    @staticmethod
    def lanes(options: Options) -> int:
        assert options.top_k is not None
        return options.top_k + 1  # the line's own pages stay until a candidate is chosen

    def feeds(self) -> list[Feed]:
        return [Feed(c.sequence) for c in self._candidates] or [Feed(self._line.sequence)]

    @property
    def finished(self) -> bool:
        return self._line.finish_reason is not None

    def found(self) -> list[Found]:
        return [self._line.found()]

    def release(self) -> None:
        for candidate in self._candidates:
            candidate.sequence.release()
        self._line.sequence.release()

    def advance(self, logits: NDArray[np.float32], hidden: NDArray[np.float32] | None) -> None:
        assert hidden is not None
        directions = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
        if self._candidates:
            chosen = self._choose(directions)
            logits = logits[chosen : chosen + 1]
            directions = directions[chosen : chosen + 1]
        else:
            self._directions = np.empty((self._task.start + self._task.limit, hidden.shape[1]), np.float32)
        if not self.finished:
            end = len(self._line.sequence.ids)
            self._directions[end - len(directions) : end] = directions
            self._propose(logits)

    def _choose(self, directions: NDArray[np.float32]) -> int:
        """Go on with the best candidate; returns its number."""
        before = self._directions[: len(self._line.sequence.ids)]
        likeness = (directions @ before.T).max(axis=1)
        probabilities = np.array([c.probability for c in self._candidates])
        chosen = int(np.argmax((1 - self._alpha) * probabilities - self._alpha * likeness))
        for number, candidate in enumerate(self._candidates):
            if number != chosen:
                candidate.sequence.release()
        self._line.sequence.release()
        self._line.sequence = self._candidates[chosen].sequence
        self._candidates = []
        token = self._line.sequence.ids.pop()  # a trial until here
        if self._task.options.logprobs is not None:
            self._line.note_logprobs(self._behind[0], token)
        self._line.accept(token, time.perf_counter())
        return chosen

    def _propose(self, logits: NDArray[np.float32]) -> None:
        """The likeliest tokens behind the line. logits: [1, vocab]."""
        task, ids = self._task, self._line.sequence.ids
        if task.options.logprobs is not None:
            self._behind = logits.copy()
        task.rules.apply([ids], logits, task.threads)
        _ext.log_softmax(logits, task.threads)
        (best,) = _ext.best_continuations(logits, [0.0], [(1, self._top_k)], task.threads)
        if not best:
            raise Error(f"generate: step {self._line.step + 1}: the logits are not finite; expected numbers")
        for score, _, token in best:
            sequence = self._line.sequence.fork()
            sequence.ids.append(token)
            self._candidates.append(_Candidate(sequence, float(np.exp(score))))
