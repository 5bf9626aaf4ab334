"""One text on its way, token by token: what a search keeps for each sequence that has no rivals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.generation.result import TokenLogprobs
from qkv.generation.search.base import Found

if TYPE_CHECKING:
    from qkv.generation.result import FinishReason, Speculation
    from qkv.generation.search.base import Task
    from qkv.generation.sequence import CachedSequence


class Line:
    """
    Attributes:
        sequence: its tokens; the last one has still to be read.
        stream: number of its stream of random numbers.
        finish_reason: None while there is more to do.
        events: new tokens, each with the text that became certain with it, until someone takes them.
    """

    def __init__(self, sequence: CachedSequence, task: Task, number: int = 0) -> None:
        self.sequence = sequence
        self.stream = task.stream + (number << 32)
        self.finish_reason: FinishReason | None = None
        self.events: list[tuple[int, str]] = []
        self._task = task
        self._end_tokens = frozenset(task.options.eos_token_id)
        self._longest = task.start + task.limit
        self._text = task.text()
        self._times: list[float] = []
        self._logprobs: list[TokenLogprobs] = []

    @property
    def step(self) -> int:
        """How many new tokens there are."""
        return len(self.sequence.ids) - self._task.start

    def accept(self, token: int, now: float) -> None:
        """Take the next token, which came `now`, and see whether it is the last."""
        ids = self.sequence.ids
        ids.append(token)
        self._times.append(now)
        if token in self._end_tokens:
            self.finish_reason = "stop"
        elif len(ids) == self._longest:
            self.finish_reason = "length"
        if self._task.live:
            self._read_along(token)
        if self.finish_reason and not self._task.options.keep_state:
            self.sequence.release()

    def _read_along(self, token: int) -> None:
        """Look for stop strings, and keep the text that became certain."""
        piece = ""
        if self._text:
            piece = self._text.push(token) if token not in self._end_tokens else ""
            if self._text.stopped:
                self.finish_reason = "stop"
            if self.finish_reason:
                piece += self._finish_text()
        self.events.append((token, piece))

    def take_events(self) -> list[tuple[int, str]]:
        """See `Search.take_events`."""
        events, self.events = self.events, []
        return events

    def note_logprobs(self, logits: NDArray[np.float32], token: int) -> None:
        """`logits`: the model's own, [vocab]."""
        chosen, ids, values = _ext.logprobs(logits[None], np.array([token], np.int64), self._task.options.logprobs or 0)
        top = dict(zip(ids[0].tolist(), values[0].tolist(), strict=True))
        self._logprobs.append(TokenLogprobs(token, float(chosen[0]), top))

    def found(self, speculation: Speculation | None = None) -> Found:
        """What there is; a text that was cut short ends here."""
        ids = self.sequence.ids[self._task.start :]
        if not self._task.live and self._text:
            self._text.read([token for token in ids if token not in self._task.options.eos_token_id])
        elif self.finish_reason is None and self._text:
            self._finish_text()
        return Found(
            ids=ids,
            text=self._text.text if self._text else "",
            finish_reason=self.finish_reason or "cancelled",
            logprobs=self._logprobs if self._task.options.logprobs is not None else None,
            times=self._times,
            speculation=speculation,
            sequence=self.sequence,
        )

    def _finish_text(self) -> str:
        """What was held back; it may turn out to hold a stop string, too."""
        assert self._text
        piece = self._text.finish()
        if self._text.stopped:
            self.finish_reason = "stop"
        return piece
