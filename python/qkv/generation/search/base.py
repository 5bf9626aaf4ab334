"""A search: how one request goes from logits to tokens. The scheduler runs the model for all searches at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from qkv.generation.options import Options
    from qkv.generation.result import FinishReason, Speculation, TokenLogprobs
    from qkv.generation.rules import LogitRules
    from qkv.generation.sequence import CachedSequence
    from qkv.generation.text import TextStream


class Feed(NamedTuple):
    """What the next run reads of one sequence: its ids from `past` on, at least one, and then `drafts`, on trial."""

    sequence: CachedSequence
    drafts: Sequence[int] = ()


@dataclass(frozen=True)
class Found:
    """One continuation of a prompt.

    Attributes:
        ids: the new tokens, an end token included.
        text: of these, up to a stop string; "" without a tokenizer.
        finish_reason: see `Generation`.
        score: of a beam: the sum of its tokens' log probabilities over its length ** length_penalty.
        logprobs: of each new token, where they were asked for.
        times: when each new token came, as `time.perf_counter` counts; empty for beams.
        speculation: how well tokens were guessed, where they were.
        sequence: prompt and text, whose pages are still there with `keep_state`.
    """

    ids: list[int]
    text: str
    finish_reason: FinishReason
    score: float | None = None
    logprobs: list[TokenLogprobs] | None = None
    times: Sequence[float] = ()
    speculation: Speculation | None = None
    sequence: CachedSequence | None = None


@dataclass(frozen=True)
class Task:
    """What a search is to do.

    Attributes:
        options: of the call.
        rules: what is done to logits before a token is chosen.
        limit: most new tokens, >= 1.
        start: tokens of the sequence before the first new one.
        stream: number of this prompt's stream of random numbers; sample i draws from stream + (i << 32).
        text: a fresh text for one sequence's tokens, which also looks for stop strings; None without a tokenizer.
        live: whether someone reads along or there are stop strings; otherwise the text can wait for the end.
        threads: that choosing may use.
    """

    options: Options
    rules: LogitRules
    limit: int
    start: int
    stream: int
    text: Callable[[], TextStream | None]
    live: bool
    threads: int


class Together:
    """Searches of one kind that get logits from the same runs, as long as none of them has other feeds. A kind that can
    do with fewer calls into C++ for all of them together has a class of its own."""

    def __init__(self, searches: Sequence[Any]) -> None:
        self.searches = searches

    def advance(
        self,
        logits: NDArray[np.float32],
        maxima: NDArray[np.float32] | None,
        hidden: Sequence[NDArray[np.float32] | None],
    ) -> list[Exception | None]:
        """`Search.advance` of each, whose rows of logits lie one behind the other; what each of them raised. `maxima`:
        of the logits, as `_ext.choose` takes them, if there are any."""
        errors: list[Exception | None] = []
        start = 0
        for search, states in zip(self.searches, hidden, strict=True):
            rows = sum(1 + len(feed.drafts) for feed in search.feeds())
            try:
                search.advance(logits[start : start + rows], states)
                errors.append(None)
            except Exception as error:  # of this request alone: a user's logits processor may raise anything
                errors.append(error)
            start += rows
        return errors


class Search(ABC):
    """Owns the sequences that it makes of the first one."""

    # Whether `advance` needs the hidden states of all tokens; a cached prefix has none, so none is used then.
    wants_hidden: ClassVar[bool] = False
    together: ClassVar[type[Together]] = Together

    @abstractmethod
    def __init__(self, sequence: CachedSequence, task: Task) -> None:
        """`sequence`: the prompt, none of it or a beginning of it read."""

    @abstractmethod
    def feeds(self) -> list[Feed]:
        """What the next run reads; of the rows behind it, the search wants one for the last id of a sequence and one
        for each draft. The same until `advance` is called; and the same list again only if each sequence has then one
        token more, and no drafts."""

    @abstractmethod
    def advance(self, logits: NDArray[np.float32], hidden: NDArray[np.float32] | None) -> None:
        """Go on with what the run made of the feeds, whose ids are in the cache.

        Args:
            logits: as the model gives them, [rows, vocab], 1 + len(drafts) rows for each feed; free to be written to.
            hidden: [tokens, hidden_size] of all tokens that were read since the last call, drafts included, with
                `wants_hidden`; else None.

        Raises:
            qkv.Error: the logits are not finite.
        """

    def take_events(self) -> list[tuple[int, str]]:
        """New tokens since the last call, each with the text that became certain with it, where `live` asks for them
        and the search knows before its end."""
        return []

    @property
    @abstractmethod
    def finished(self) -> bool: ...

    @abstractmethod
    def found(self) -> list[Found]:
        """The continuations, best first; of an unfinished search what there is so far."""

    @abstractmethod
    def release(self) -> None:
        """Give all pages back; safe to call twice."""

    @staticmethod
    @abstractmethod
    def lanes(options: Options) -> int:
        """How many sequences there are at once, at most."""


class JointSearch(Search):
    """A kind whose own `together` does the work."""

    def advance(self, logits: NDArray[np.float32], hidden: NDArray[np.float32] | None) -> None:
        (error,) = self.together([self]).advance(logits, None, [hidden])
        if error is not None:
            raise error
