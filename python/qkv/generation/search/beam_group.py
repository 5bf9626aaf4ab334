"""The beams of one group: those that go on, and those that have ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from qkv.generation.result import FinishReason, TokenLogprobs
    from qkv.generation.search.base import Task
    from qkv.generation.sequence import CachedSequence
    from qkv.generation.text import TextStream

# The score of a beam with one more token (the sum of all log probabilities), the beam's number, the token.
Continuation = tuple[float, int, int]
# What is noted of a token that continues a beam (the beam's number, the token).
Note = Callable[[int, int], "TokenLogprobs"]


@dataclass(slots=True)
class Beam:
    """
    Attributes:
        sequence: its tokens; the last one has still to be read.
        score: the sum of its tokens' log probabilities, as the rules left them.
        text: read along where a stop string may end it.
        logprobs: of its new tokens, where they are noted.
    """

    sequence: CachedSequence
    score: float
    text: TextStream | None
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(slots=True)
class Ended:
    """A beam that goes on no longer.

    Attributes:
        ids: the new tokens.
        score: the sum over the length ** length_penalty.
    """

    ids: list[int]
    score: float
    reason: FinishReason
    logprobs: tuple[TokenLogprobs, ...]


@dataclass(slots=True)
class _Going:
    """A beam with one more token, which does not end it."""

    score: float
    parent: int
    token: int
    text: TextStream | None
    logprobs: tuple[TokenLogprobs, ...]


class BeamGroup:
    """Goes on with the best `size` beams, and remembers the best `size` that ended: as transformers 5 does it.

    Attributes:
        running: the best first; a single one before the first step, none after the last.
        ended: the best first.
        taken: the best `size` tokens of the last step that are no end tokens.
        wanted: how many continuations to look at: enough for `size` that do not end, if each beam met every end token.
    """

    def __init__(self, sequence: CachedSequence, task: Task, size: int) -> None:
        self.running = [Beam(sequence, 0.0, task.text() if task.options.stop_strings else None)]
        self.ended: list[Ended] = []
        self.taken: list[int] = []
        self.wanted = max(2, 1 + len(task.options.eos_token_id)) * size
        self._task = task
        self._size = size
        self._end_tokens = frozenset(task.options.eos_token_id)

    @property
    def length(self) -> int:
        """New tokens of each running beam."""
        return len(self.running[0].sequence.ids) - self._task.start

    def advance(self, continuations: Sequence[Continuation], note: Note | None = None) -> None:
        """One token more. `continuations`: the best, or as they were drawn; only the first `size` of them may end."""
        length = self.length + 1
        going: list[_Going] = []
        ended = list(self.ended)
        for rank, (score, parent, token) in enumerate(continuations):
            beam = self.running[parent]
            text = beam.text.copy() if beam.text else None
            reason = self._ends(token, text, length)
            if reason is not None and rank >= self._size:
                continue
            logprobs = (*beam.logprobs, note(parent, token)) if note else ()
            if reason is None:
                going.append(_Going(score, parent, token, text, logprobs))
            else:
                ids = [*beam.sequence.ids[self._task.start :], token]
                ended.append(Ended(ids, self._normalised(score, length), reason, logprobs))
        self.taken = [t for _, _, t in continuations if t not in self._end_tokens][: self._size]
        self.ended = _best(ended, self._size)
        self._go_on(_best(going, self._size))
        if self.running and not self._may_improve(length):
            self.release()
            self.running = []

    def cut_short(self) -> list[Ended]:
        """The best `size` of those that ended and those that were still running."""
        cut = [
            Ended(beam.sequence.ids[self._task.start :], self._normalised(beam.score, self.length), "cancelled",
                  beam.logprobs)
            for beam in self.running
        ]  # fmt: skip
        return _best([*self.ended, *cut], self._size)

    def release(self) -> None:
        for beam in self.running:
            beam.sequence.release()

    def _ends(self, token: int, text: TextStream | None, length: int) -> FinishReason | None:
        if token in self._end_tokens:
            return "stop"
        if text is not None:
            text.push(token)
            if text.stopped:
                return "stop"
        return "length" if length == self._task.limit else None

    def _go_on(self, going: Sequence[_Going]) -> None:
        """The first continuation of a beam keeps its pages, others share them, and those of dead ends are free."""
        parents, self.running = self.running, []
        alive = {beam.parent for beam in going}
        dead_ends = [parent.sequence for number, parent in enumerate(parents) if number not in alive]
        for beam in going:
            sequence = parents[beam.parent].sequence
            if beam.parent in alive:
                alive.remove(beam.parent)
            else:
                sequence = sequence.fork(dead_ends.pop() if dead_ends else None)
            self.running.append(Beam(sequence, beam.score, beam.text, beam.logprobs))
        for beam, running in zip(going, self.running, strict=True):
            running.sequence.ids.append(beam.token)
        for sequence in dead_ends:
            sequence.release()

    def _may_improve(self, length: int) -> bool:
        """Whether a running beam may still end better than the worst that ended."""
        if len(self.ended) < self._size:
            return True
        options = self._task.options
        if options.early_stopping is True:
            return False
        longest = options.early_stopping == "never" and options.length_penalty > 0
        best = self._normalised(self.running[0].score, self._task.limit if longest else length)
        return best > self.ended[-1].score

    def _normalised(self, score: float, length: int) -> float:
        return score / float(max(length, 1) ** self._task.options.length_penalty)


_Scored = TypeVar("_Scored", Ended, _Going)


def _best(scored: list[_Scored], most: int) -> list[_Scored]:
    """The best first; of equal ones the first stays ahead."""
    return sorted(scored, key=lambda one: -one.score)[:most]
