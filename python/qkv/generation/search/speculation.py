"""Speculation: several tokens are guessed cheaply, and one run of the model checks all of them.

Every token is chosen from the model's own logits, as without speculation and with the same random numbers; a guess is
kept only where it is that very token. So the text is the same to the last token, sampled or not. (Leviathan et al. 2023
accept sampled guesses more often, but by other draws than the model alone would make.)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.errors import Error
from qkv.generation.result import Speculation
from qkv.generation.sampling import describe_bad_row
from qkv.generation.search.base import Feed, Found, Search, Task
from qkv.generation.search.draft_model import DraftModel
from qkv.generation.search.line import Line

if TYPE_CHECKING:
    from qkv.generation.options import Options
    from qkv.generation.sequence import CachedSequence


class Drafter(Protocol):
    """Guesses what follows."""

    def draft(self, ids: Sequence[int], most: int) -> list[int]:
        """At most `most` tokens behind `ids`; every call's ids begin with those of the call before."""
        ...

    def release(self) -> None: ...


class PromptLookup:
    """Guesses that what followed the last few tokens before follows them again (Saxena 2023). Texts that quote from
    their prompt, such as summaries and corrected code, often do. The more tokens agree, the further goes the guess: a
    single one is mostly chance, within a quotation all agree.

    Args:
        most_sought: tokens that are looked for, at most; the longest match counts, and of several the latest.
    """

    def __init__(self, most_sought: int) -> None:
        self._most_sought = most_sought
        self._seen = 0  # ids that are in `_after`
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> where the latest one that something follows ends

    def draft(self, ids: Sequence[int], most: int) -> list[int]:
        for end in range(max(self._seen, 1), len(ids)):
            for n in range(1, min(self._most_sought, end) + 1):
                self._after[tuple(ids[end - n : end])] = end
        self._seen = len(ids)
        for n in range(min(self._most_sought, len(ids) - 1), 0, -1):
            if (start := self._after.get(tuple(ids[-n:]))) is not None:
                while n < start and 2 * n <= most and ids[start - n - 1] == ids[-n - 1]:
                    n += 1  # more agree than were looked for
                return list(ids[start : start + min(most, 2 * n - 1)])
        return []

    def release(self) -> None:
        pass


class SpeculativeSearch(Search):
    def __init__(self, sequence: CachedSequence, task: Task) -> None:
        options = task.options
        self._task = task
        self._line = Line(sequence, task)
        self._filters = options.sampling.filters() if options.sampling else None
        self._drafter: Drafter
        if options.assistant_model is not None:
            self._drafter = DraftModel(
                options.assistant_model, sequence.ids, sequence.planned, self._filters, self._draw
            )
            self._most = options.num_assistant_tokens
        else:
            assert options.prompt_lookup_num_tokens
            self._drafter = PromptLookup(options.max_matching_ngram_size)
            self._most = options.prompt_lookup_num_tokens
        self._drafts: list[int] = []
        self._drafted = self._accepted = self._runs = 0

    @staticmethod
    def lanes(options: Options) -> int:
        return 1

    def feeds(self) -> list[Feed]:
        return [Feed(self._line.sequence, self._drafts)]

    def advance(self, logits: NDArray[np.float32], hidden: NDArray[np.float32] | None) -> None:
        line, task = self._line, self._task
        accepted = 0
        first = line.step
        now = time.perf_counter()
        tokens = None if task.rules.active else self._choose(logits, first)
        for i, row in enumerate(logits):
            raw = row
            if tokens is None:  # rules depend on the tokens before
                raw = row.copy()
                task.rules.apply([line.sequence.ids], row[None], task.threads)
            token = tokens[i] if tokens else self._choose(row[None], first + i)[0]
            if token < 0:
                raise Error(f"generate: step {first + i + 1}: {describe_bad_row(row)}")
            if task.options.logprobs is not None:
                line.note_logprobs(raw, token)
            guessed = i < len(self._drafts) and token == self._drafts[i]
            line.accept(token, now)
            accepted += guessed
            if not guessed or line.finish_reason:
                break
        self._runs += bool(self._drafts)
        self._drafted += len(self._drafts)
        self._accepted += accepted
        self._drafts = []
        if line.finish_reason:
            self._drafter.release()
            return
        line.sequence.advance(accepted)
        room = task.limit - line.step - 1
        if room > 0:
            self._drafts = self._drafter.draft(line.sequence.ids, min(self._most, room))

    @property
    def finished(self) -> bool:
        return self._line.finish_reason is not None

    def found(self) -> list[Found]:
        return [self._line.found(Speculation(self._drafted, self._accepted, self._runs))]

    def take_events(self) -> list[tuple[int, str]]:
        return self._line.take_events()

    def release(self) -> None:
        self._line.sequence.release()
        self._drafter.release()

    def _choose(self, logits: NDArray[np.float32], step: int) -> list[int]:
        """New tokens `step`, `step` + 1, ... for rows of logits, -1 where these are not finite."""
        draws = [self._draw(step + i) for i in range(len(logits))]
        return _ext.choose([self._filters] * len(logits), logits, draws, self._task.threads)

    def _draw(self, step: int) -> float:
        """Of new token `step`; the draft model draws with the same number, which makes it likelier to agree."""
        return _ext.uniform(self._task.options.seed, self._line.stream, step) if self._filters else 0.0
