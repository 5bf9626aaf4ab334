"""A request: one prompt, what its caller wants, and what became of it."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qkv import _ext
from qkv.batches import PREFILL_TOKENS
from qkv.generation.pool import pages_for
from qkv.generation.prompts import Prompt, decoder_start, encode_continuation, encode_prompts
from qkv.generation.result import Generation, Timings
from qkv.generation.rules import LogitRules
from qkv.generation.search import Found, Search, Task, kind_of
from qkv.generation.sequence import CachedSequence
from qkv.generation.state import State
from qkv.generation.text import TextStream

if TYPE_CHECKING:
    from qkv.generation.options import Options
    from qkv.generation.pool import Reservation
    from qkv.generation.result import FinishReason
    from qkv.generation.shares import Share
    from qkv.model import Model
    from qkv.source import Source

_numbers = itertools.count()

# The options that `LogitRules` takes as they are.
_RULES = (
    "eos_token_id", "logit_bias", "encoder_repetition_penalty", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "min_length",
    "min_new_tokens", "forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens",
    "logits_processor",
)  # fmt: skip


class Request:
    """One prompt on its way through a scheduler.

    Attributes:
        source: token ids for the encoder; empty without one.
        start: token ids that the decoder starts from: the prompt, or behind an encoder its start token and the prefix.
        planned: tokens that the decoder will have read and written in the end, at most.
        kind, search: the way from logits to tokens; there is no search until there is room for the request to run.
        live: whether someone reads along, or there are stop strings to look for.
        deadline: when it has to end, as `time.perf_counter` counts.
        share: its part of the last run, since it writes new tokens.
        prefilling: whether its first new token is still to come.
        prefill_seconds, decode_seconds: of the runs that it was part of, before and after its first new token.
        results: the continuations, best first, once it is finished.
        error: what went wrong with this request alone; there are no results then.
        cancelled: set by anyone; the scheduler ends the request before its next run.
    """

    def __init__(self, model: Model, prompt: Sequence[int], options: Options, *, stream: int = 0, live: bool) -> None:
        """`stream`: number of its stream of random numbers. `live`: someone reads along."""
        self.options = options
        self.number = next(_numbers)
        self.source = list(prompt) if model.encoder else []
        if model.encoder:
            self.start = [decoder_start(model), *options.prefix]
        else:
            self.start = [*(options.state.ids if options.state else []), *prompt]
        self.limit = options.limit(len(self.start), model.context_length)
        self.planned = len(self.start) + self.limit
        self.kind: type[Search] = kind_of(options)
        self.search: Search | None = None
        self.share: Share | None = None
        self.results: list[Generation] = []
        self.error: Exception | None = None
        self.cancelled = False
        self.arrived = time.perf_counter()
        self.deadline = math.inf if options.max_time is None else self.arrived + options.max_time
        self.prefilling = True
        self._model = model
        self.live = live or bool(options.stop_strings)
        self._stream = stream
        self._reservation: Reservation | None = None
        self._source: Source | None = None
        self._sequence: CachedSequence | None = None
        self._cached = 0
        self.prefill_seconds = self.decode_seconds = self._queued = 0.0

    @property
    def order(self) -> tuple[int, int]:
        """Requests of higher priority first, then those that came first."""
        return -self.options.priority, self.number

    @property
    def finished(self) -> bool:
        return bool(self.results) or self.error is not None

    @property
    def pages(self) -> int:
        """That it needs at most at once: those of its start, which all its sequences share, and for each sequence
        those of its new tokens, one that is partly filled, and one that takes its place. Of these, no more than the
        layers look at, where they have windows, and a run writes."""
        pool, options = self._model.kv_pool, self.options
        start, planned = pages_for(len(self.start)), pages_for(self.planned)
        each = planned - start + 2
        if pool.reach is not None:
            guesses = (options.prompt_lookup_num_tokens or 0) + options.num_assistant_tokens
            seen = pages_for(pool.reach + max(PREFILL_TOKENS, 1 + guesses)) + 2
            start, each = min(start, seen), min(each, seen)
        return start + self.kind.lanes(options) * each

    def begin(self, reservation: Reservation, source: Source | None) -> None:
        """There is room for it now; what the encoder read is there."""
        model, options = self._model, self.options
        self._reservation, self._source = reservation, source
        if options.state is not None:
            sequence = options.state.sequence(self.start[len(options.state.ids) :], self.planned)
        else:
            sequence = CachedSequence(model.kv_pool, self.start, self.planned, source)
        self._sequence, self._cached = sequence, sequence.past
        rules = LogitRules(
            start=len(self.start),
            limit=self.limit,
            source=self.source or self.start,
            **{name: getattr(options, name) for name in _RULES},
        )
        context = [] if self.source else self.start
        stops = options.stop_strings

        def text() -> TextStream | None:
            return TextStream(model.tokenizer, context, stops) if model.tokenizer else None

        task = Task(
            options=options,
            rules=rules,
            limit=self.limit,
            start=len(self.start),
            stream=self._stream,
            text=text,
            live=self.live,
            threads=model.num_threads,
        )
        self.search = self.kind(sequence, task)
        self._queued = time.perf_counter() - self.arrived

    @property
    def unread(self) -> bool:
        """Whether nothing of it is read, and it could share what others read of the same beginning."""
        return self._sequence is not None and self._sequence.past == 0 and self._shares

    @property
    def _shares(self) -> bool:
        return len(self.start) > _ext.page_tokens and not self.kind.wants_hidden

    def match(self) -> None:
        """Before its first run: take what is cached of the prompt."""
        if self._sequence is not None and self._sequence.past == 0 and not self.kind.wants_hidden:
            self._sequence.match()
            self._cached = self._sequence.past

    def take_events(self) -> list[tuple[int, str]]:
        """See `Search.take_events`."""
        return self.search.take_events() if self.search else []

    def finish(self, reason: FinishReason | None = None) -> None:
        """Take what the search found and give back all that it held; `reason`: of what is unfinished."""
        nothing = [Found([], "", reason or "cancelled")]
        try:
            found = (self.search.found() if self.search else nothing) or nothing
            self.results = [self._generation(each, reason) for each in found]
        except Exception as error:  # such as a length_penalty beyond what floats hold
            self.error = error
        finally:
            self.release()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.release()

    def release(self) -> None:
        """Give back pages, source and reservation; safe to call twice."""
        if self.search:
            self.search.release()
        if self._source:
            self._source.release()
            self._source = None
        if self._reservation:
            self._reservation.release()
            self._reservation = None

    def _generation(self, found: Found, reason: FinishReason | None) -> Generation:
        cut_short = found.finish_reason == "cancelled" and reason is not None
        return Generation(
            text=found.text,
            token_ids=found.ids,
            prompt_tokens=len(self.source) or len(self.start),
            finish_reason=reason if cut_short and reason else found.finish_reason,
            score=found.score,
            logprobs=found.logprobs,
            timings=Timings(
                queue=self._queued,
                prefill=self.prefill_seconds,
                decode=self.decode_seconds,
                tokens=tuple(t - self.arrived for t in found.times),
            ),
            cached_tokens=self._cached,
            speculation=found.speculation,
            state=self._state(found),
        )

    def _state(self, found: Found) -> State | None:
        if not self.options.keep_state or found.sequence is None or self._reservation is None:
            return None
        return State.of(self._model, found.sequence, self._reservation)


def requests_for(
    model: Model, prompts: Prompt | Sequence[Prompt], options: Options, *, live: bool = False
) -> list[Request]:
    """A request for each prompt.

    Raises:
        qkv.Error: a prompt is not what it should be, or leaves no room for a new token.
    """
    if options.state is not None:
        encoded = [encode_continuation(model, prompts)]  # type: ignore[arg-type]  # a single one, as options say
    else:
        encoded = encode_prompts(model, prompts, options.longest_prompt(model.context_length, bool(model.encoder)))
    return [Request(model, ids, options, stream=number, live=live) for number, ids in enumerate(encoded)]
