"""One prompt on its way through the generation loop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qkv.errors import Error
from qkv.generation.result import FinishReason, Generation
from qkv.generation.rules import TokenRules
from qkv.generation.sampling import Sampler
from qkv.generation.text import TextStream


class RunningSequence:
    """Tokens and text of one prompt, and what is left to do.

    Attributes:
        source: the prompt, where an encoder reads it; else empty.
        ids: what the decoder reads: the tokens of the prompt, or of its start behind an encoder, and the new ones.
        past: how many of them the model has seen; their keys and values are in the cache.
        limit: most new tokens.
        finish_reason: None while there is more to do.
        piece: the text that became certain with the last token.
        prefill_seconds, decode_seconds: see `Generation`.
    """

    def __init__(
        self,
        start: Sequence[int],
        limit: int,
        rules: TokenRules,
        sampler: Sampler,
        text: TextStream | None,
        source: Sequence[int] = (),
    ) -> None:
        self.source = source
        self.ids = list(start)
        self.past = 0
        self.limit = limit
        self.finish_reason: FinishReason | None = None
        self.piece = ""
        self.prefill_seconds = 0.0
        self.decode_seconds = 0.0
        self._start_tokens = len(start)
        self._rules = rules
        self._sampler = sampler
        self._text = text

    @property
    def new_tokens(self) -> int:
        return len(self.ids) - self._start_tokens

    @property
    def pending(self) -> int:
        """How many tokens the decoder has still to see: what is left of its start, or the last token."""
        return len(self.ids) - self.past

    @property
    def most_tokens(self) -> int:
        """That the decoder will have read and written in the end."""
        return self._start_tokens + self.limit

    @property
    def most_positions(self) -> int:
        """Cache positions needed at most: the model never sees the last new token."""
        return self.most_tokens - 1

    def accept(self, logits: np.ndarray) -> None:
        """Choose the next token from its logits, float32 `[vocab]`, and see whether it is the last.

        Raises:
            qkv.Error: the logits are not finite.
        """
        token = self._choose(logits)
        self.ids.append(token)
        ended = token in self._rules.end
        self.piece = self._text.push(token) if self._text and not ended else ""
        if ended or self._stopped or self.new_tokens == self.limit:
            self.piece += self._text.finish() if self._text else ""
            self.finish_reason = "stop" if ended or self._stopped else "length"

    def _choose(self, logits: np.ndarray) -> int:
        forced = self._rules.forced(self.ids, last=self.new_tokens + 1 == self.limit)
        if forced is not None:
            return forced
        try:
            return self._sampler(self._rules.apply(self.ids, logits))
        except Error as error:
            raise Error(f"generate: step {self.new_tokens + 1}: {error}") from error

    @property
    def _stopped(self) -> bool:
        return self._text is not None and self._text.stopped

    def result(self) -> Generation:
        """The finished generation."""
        assert self.finish_reason is not None
        return Generation(
            text=self._text.text if self._text else "",
            token_ids=self.ids[self._start_tokens :],
            prompt_tokens=len(self.source) or self._start_tokens,
            finish_reason=self.finish_reason,
            prefill_seconds=self.prefill_seconds,
            decode_seconds=self.decode_seconds,
        )
