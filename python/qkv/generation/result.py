"""What a generation returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from qkv.generation.state import State

FinishReason = Literal["stop", "length", "time", "cancelled"]


@dataclass(frozen=True)
class TokenLogprobs:
    """How likely the model itself found a token, before penalties, filters and temperature.

    Attributes:
        token: the one that was chosen.
        logprob: natural logarithm of its probability.
        top: the likeliest tokens and their log probabilities, best first.
    """

    token: int
    logprob: float
    top: dict[int, float]


@dataclass(frozen=True)
class Timings:
    """Where the time of a request went, in seconds.

    Attributes:
        queue: from its arrival until it had room to run.
        prefill: computing time up to the first new token. Like `decode`, it counts the whole runs that the request
            took part in, with all their company, and no time spent in a streamer.
        decode: computing time from the first new token to the last.
        tokens: from arrival to each new token; empty for beams, which choose theirs at the end.
    """

    queue: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    tokens: tuple[float, ...] = ()


@dataclass(frozen=True)
class Speculation:
    """How well drafts were guessed.

    Attributes:
        drafted: tokens that were tried.
        accepted: of these, how many were what the model itself would have chosen.
        runs: of the model, each of which gave one token more than it accepted.
    """

    drafted: int
    accepted: int
    runs: int

    @property
    def acceptance(self) -> float:
        """The share of the drafted tokens that were accepted."""
        return self.accepted / self.drafted if self.drafted else 0.0


@dataclass(frozen=True)
class Generation:
    """The continuation of one prompt. `str()` gives its text.

    Attributes:
        text: the new text, without the prompt, special tokens or the stop string; "" without a tokenizer.
        token_ids: the new tokens, a final end-of-sequence token or the tokens of a stop string included.
        prompt_tokens: how many tokens the prompt has.
        finish_reason: "stop" when the model ended the text or a stop string was found, "length" when
            `max_new_tokens` or the model's context was used up, "time" after `max_time`, "cancelled" after `cancel()`.
        score: of a beam: the sum of its tokens' log probabilities over its length ** length_penalty.
        logprobs: of each new token, with `logprobs=`.
        timings: where the time went.
        cached_tokens: of the prompt, whose keys and values were in the cache already.
        speculation: with `prompt_lookup_num_tokens=` or `assistant_model=`.
        state: with `keep_state=True`: keys and values of prompt and text, to go on from.
    """

    text: str
    token_ids: list[int]
    prompt_tokens: int
    finish_reason: FinishReason
    score: float | None = None
    logprobs: list[TokenLogprobs] | None = None
    timings: Timings = field(default_factory=Timings, compare=False)
    cached_tokens: int = field(default=0, compare=False)
    speculation: Speculation | None = field(default=None, compare=False)
    state: State | None = field(default=None, compare=False, repr=False)

    @property
    def tokens_per_second(self) -> float:
        """New tokens per second of decoding; 0.0 with fewer than two, as the first comes from the prefill."""
        return (len(self.token_ids) - 1) / self.timings.decode if self.timings.decode > 0 else 0.0

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        text = self.text if len(self.text) <= 60 else f"{self.text[:57]}..."
        speed = f", {self.tokens_per_second:.1f} tokens/s" if self.tokens_per_second else ""
        score = "" if self.score is None else f", score {self.score:.4f}"
        return (
            f"<Generation {text!r}: {len(self.token_ids)} tokens after {self.prompt_tokens}, "
            f"{self.finish_reason}{score}{speed}>"
        )
