"""One token after the other: greedy, sampled, several samples of one prompt, and the likeliest first tokens each
continued."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.errors import Error
from qkv.generation.rules import LogitRules
from qkv.generation.sampling import describe_bad_row
from qkv.generation.search.base import Feed, Found, JointSearch, Task, Together
from qkv.generation.search.line import Line

if TYPE_CHECKING:
    from qkv.generation.options import Options
    from qkv.generation.sequence import CachedSequence


class TokensTogether(Together):
    def __init__(self, searches: Sequence[TokenSearch]) -> None:
        super().__init__(searches)
        self._noting = any(search._noting for search in searches)
        self._ruled = any(search._task.rules.active for search in searches)
        self._threads = searches[0]._task.threads
        self._gather()

    def _gather(self) -> None:
        """What goes on, one line after the other."""
        going = [(search, line) for search in self.searches for line in search._running]
        self._unbranched = any(search._unbranched for search in self.searches)
        self._owners = [search for search, _ in going]
        self._lines = [line for _, line in going]
        self._filters = [search._filters for search in self._owners]

    def advance(
        self,
        logits: NDArray[np.float32],
        maxima: NDArray[np.float32] | None,
        hidden: Sequence[NDArray[np.float32] | None],
    ) -> list[Exception | None]:
        if self._unbranched:
            logits, maxima = _branched(self.searches, logits), None
            self._gather()
        owners, lines = self._owners, self._lines
        draws = [
            0.0 if search._filters is None else _ext.uniform(search._seed, line.stream, line.step)
            for search, line in zip(owners, lines, strict=True)
        ]
        raw = logits.copy() if self._noting else logits
        errors: list[Exception | None] = [None] * len(lines)
        if self._ruled:
            rules = [search._task.rules for search in owners]
            maxima = None if any(one.processors for one in rules) else maxima  # these change them unseen
            errors = LogitRules.apply_all(rules, [line.sequence.ids for line in lines], logits, self._threads, maxima)
        tokens = _ext.choose(self._filters, logits, draws, self._threads, maxima)
        now = time.perf_counter()
        failed: dict[TokenSearch, Exception] = {}
        for i, (search, line, token) in enumerate(zip(owners, lines, tokens, strict=True)):
            error = errors[i]
            if error is None and token < 0:
                error = Error(f"generate: step {line.step + 1}: {describe_bad_row(logits[i])}")
            if error is not None:
                failed[search] = error
                continue
            if search._ranking and line.step == 0:
                token = _ranked(logits[i], search._lines.index(line))
            if search._noting:
                line.note_logprobs(raw[i], token)
            line.accept(token, now)
            if line.finish_reason:
                search._go_on([other for other in search._running if other is not line])
        return [failed.get(search) for search in self.searches]


class TokenSearch(JointSearch):
    """Independent lines of one prompt; all of them begin with the logits behind its last token."""

    together = TokensTogether

    def __init__(self, sequence: CachedSequence, task: Task) -> None:
        options = task.options
        self._task = task
        self._lines = [Line(sequence, task)]
        self._filters = options.sampling.filters() if options.sampling else None
        self._seed = options.seed
        self._noting = options.logprobs is not None
        self._ranking = options.return_alternatives
        self._unbranched = options.num_return_sequences > 1  # until the prompt has been read: then there are more lines
        self._go_on(self._lines)

    @staticmethod
    def lanes(options: Options) -> int:
        return options.num_return_sequences

    def feeds(self) -> list[Feed]:
        return self._feeds

    def _go_on(self, lines: Sequence[Line]) -> None:
        """With these, which have not ended."""
        self._running = list(lines)
        self._feeds = [Feed(line.sequence) for line in lines]

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


def _branched(searches: Sequence[TokenSearch], logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Start the lines that are still missing; returns a row of logits for each line."""
    copies = []
    for search in searches:
        if not search._unbranched:
            copies += [1] * len(search._running)
            continue
        first, wanted = search._lines[0].sequence, search._task.options.num_return_sequences
        search._lines += [Line(first.fork(), search._task, number) for number in range(1, wanted)]
        search._go_on(search._lines)
        search._unbranched = False
        copies.append(wanted)
    return np.repeat(logits, copies, axis=0)


def _ranked(logits: NDArray[np.float32], rank: int) -> int:
    """The token of this rank among the likeliest, from 0; of equally likely ones the lower id comes first."""
    return int(np.argsort(-logits, kind="stable")[rank])
