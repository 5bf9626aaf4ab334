"""One token after the other: greedy, sampled, several samples of one prompt, and the likeliest first tokens each
continued."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.errors import Error
from qkv.generation.rules import LogitRules
from qkv.generation.sampling import describe_bad_row
from qkv.generation.search.base import Feed, Found, JointSearch, Task
from qkv.generation.search.line import Line

if TYPE_CHECKING:
    from qkv.generation.options import Options
    from qkv.generation.sequence import CachedSequence


class TokenSearch(JointSearch):
    """Independent lines of one prompt; all of them begin with the logits behind its last token."""

    def __init__(self, sequence: CachedSequence, task: Task) -> None:
        self._task = task
        self._lines = [Line(sequence, task)]
        self._running = [*self._lines]
        self._filters = task.options.sampling.filters() if task.options.sampling else None

    @staticmethod
    def lanes(options: Options) -> int:
        return options.num_return_sequences

    def feeds(self) -> list[Feed]:
        return [Feed(line.sequence) for line in self._running]

    @property
    def finished(self) -> bool:
        return not self._running

    def found(self) -> list[Found]:
        return [line.found() for line in self._lines]

    def take_events(self) -> list[tuple[int, str]]:
        return self._lines[0].take_events()

    def release(self) -> None:
        for line in self._lines:
            line.sequence.release()

    @classmethod
    def advance_all(
        cls, searches: Sequence[Any], logits: NDArray[np.float32], hidden: Sequence[Any]
    ) -> list[Exception | None]:
        logits = _branch_all(searches, logits)
        threads = searches[0]._task.threads
        owners = [search for search in searches for _ in search._running]
        lines = [line for search in searches for line in search._running]
        raw = logits.copy() if any(s._task.options.logprobs is not None for s in searches) else logits
        rules = [search._task.rules for search in owners]
        errors = LogitRules.apply_all(rules, [line.sequence.ids for line in lines], logits, threads)
        draws = [_draw(search, line) for search, line in zip(owners, lines, strict=True)]
        tokens = _ext.choose([search._filters for search in owners], logits, draws, threads)
        failed: dict[TokenSearch, Exception] = {}
        for i, (search, line, token) in enumerate(zip(owners, lines, tokens, strict=True)):
            error = errors[i]
            if error is None and token < 0:
                error = Error(f"generate: step {line.step + 1}: {describe_bad_row(logits[i])}")
            if error is not None:
                failed[search] = error
                continue
            if search._task.options.return_alternatives and line.step == 0:
                token = _ranked(logits[i], search._lines.index(line))
            if search._task.options.logprobs is not None:
                line.note_logprobs(raw[i], token)
            line.accept(token)
            if line.finish_reason:
                search._running.remove(line)
        return [failed.get(search) for search in searches]


def _branch_all(searches: Sequence[TokenSearch], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """After its prompt, the line of a search becomes as many as are wanted; returns a row of logits for each line."""
    copies = []
    for search in searches:
        wanted = search._task.options.num_return_sequences
        if len(search._lines) < wanted:
            first = search._lines[0].sequence
            search._lines += [Line(first.fork(), search._task, number) for number in range(1, wanted)]
            search._running = [*search._lines]
            copies.append(wanted)
        else:
            copies += [1] * len(search._running)
    return logits if max(copies) == 1 else np.repeat(logits, copies, axis=0)


def _draw(search: TokenSearch, line: Line) -> float:
    """Uniform in [0, 1); greedy choice needs none."""
    return _ext.uniform(search._task.options.seed, line.stream, line.step) if search._filters else 0.0


def _ranked(logits: NDArray[np.float32], rank: int) -> int:
    """The token of this rank among the likeliest, from 0; of equally likely ones the lower id comes first."""
    return int(np.argsort(-logits, kind="stable")[rank])
