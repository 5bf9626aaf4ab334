"""What a generation returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Generation:
    """The continuation of one prompt. `str()` gives its text.

    Attributes:
        text: the new text, without the prompt, special tokens or the stop string; "" without a tokenizer.
        token_ids: the new tokens, a final end-of-sequence token or the tokens of a stop string included.
        prompt_tokens: how many tokens the prompt has.
        finish_reason: "stop" when the model ended the text or a stop string was found, "length" when
            `max_new_tokens` or the model's context was used up.
        prefill_seconds: computing time up to the first new token. Like `decode_seconds`, it counts the whole
            batch's runs while this prompt was in it, and no time spent in a streamer.
        decode_seconds: computing time from the first new token to the last.
    """

    text: str
    token_ids: list[int]
    prompt_tokens: int
    finish_reason: FinishReason
    prefill_seconds: float = field(compare=False)
    decode_seconds: float = field(compare=False)

    @property
    def tokens_per_second(self) -> float:
        """New tokens per second of decoding; 0.0 with fewer than two, as the first comes from the prefill."""
        return (len(self.token_ids) - 1) / self.decode_seconds if self.decode_seconds > 0 else 0.0

    def __str__(self) -> str:
        return self.text
