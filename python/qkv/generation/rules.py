"""What is done to logits before a token is chosen: penalties, bans, forced tokens, and what the caller adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.errors import Error

if TYPE_CHECKING:
    from qkv.model import Model

# Of the ids of a sequence, int64 [n], and the logits of the next token, float32 [vocab], makes such logits.
LogitsProcessor = Callable[[NDArray[np.int64], NDArray[np.float32]], NDArray[np.float32]]


class LogitRules:
    """All that is done to the logits of one request: Hugging Face's processors with their names and meaning, in its
    order, OpenAI's two penalties right after repetition_penalty, and then the caller's own functions.

    Attributes:
        active: whether anything is ever done.
        processors: the caller's functions.
    """

    def __init__(
        self,
        *,
        start: int = 0,
        limit: int | None = None,
        eos_token_id: int | Iterable[int] | None = None,
        source: Iterable[int] = (),
        logit_bias: Mapping[int, float] | None = None,
        encoder_repetition_penalty: float = 1.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        no_repeat_ngram_size: int = 0,
        encoder_no_repeat_ngram_size: int = 0,
        bad_words_ids: Iterable[Iterable[int]] = (),
        min_length: int = 0,
        min_new_tokens: int = 0,
        forced_bos_token_id: int | Iterable[int] | None = None,
        forced_eos_token_id: int | Iterable[int] | None = None,
        suppress_tokens: Iterable[int] = (),
        begin_suppress_tokens: Iterable[int] = (),
        logits_processor: Iterable[LogitsProcessor] = (),
    ) -> None:
        """Token ids that are not in the vocabulary are ignored.

        Args:
            start: ids of a sequence before its first new token.
            limit: most new tokens; forced_eos_token_id comes at the last of these places.
            eos_token_id: tokens that end the text. Nothing keeps it from ending without them.
            source: what an encoder read, or the prompt of a decoder alone.
            logit_bias: added to the logits of these tokens; minus infinity bans one.
            encoder_repetition_penalty: as repetition_penalty, but of the source's tokens and the other way round.
            repetition_penalty: logits of all tokens in a sequence are divided by it, negative ones multiplied.
            presence_penalty, frequency_penalty: subtracted from the logits of tokens that were generated: once, and
                as often as they were.
            no_repeat_ngram_size, encoder_no_repeat_ngram_size: no n tokens that are already in the sequence, or the
                source; 0 for off.
            bad_words_ids: sequences of tokens that are never completed. A lone end token is none.
            min_length, min_new_tokens: the text does not end before it has so many tokens, with its start or without.
            forced_bos_token_id: the only token, or tokens, that may follow a single first one.
            forced_eos_token_id: the only ones at the last place.
            suppress_tokens: never chosen.
            begin_suppress_tokens: not chosen as the first new token.
            logits_processor: functions of the ids of a sequence, int64 [n], and logits, float32 [vocab], that return
                logits; each gets what the one before it returned.

        Raises:
            qkv.Error: a value is not what it should be.
        """
        self.processors = tuple(logits_processor)
        self._start = start
        self._rules = _ext.LogitRules(
            start=start,
            max_length=0 if limit is None else start + limit,
            eos_token_id=_ids("eos_token_id", eos_token_id),
            source=_ids("source", source),
            logit_bias=list(zip(_ids("logit_bias", logit_bias), (logit_bias or {}).values(), strict=True)),
            encoder_repetition_penalty=encoder_repetition_penalty,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            no_repeat_ngram_size=no_repeat_ngram_size,
            encoder_no_repeat_ngram_size=encoder_no_repeat_ngram_size,
            bad_words_ids=[_ids("bad_words_ids", word) for word in bad_words_ids],
            min_length=min_length,
            min_new_tokens=min_new_tokens,
            forced_bos_token_id=_ids("forced_bos_token_id", forced_bos_token_id),
            forced_eos_token_id=_ids("forced_eos_token_id", forced_eos_token_id),
            suppress_tokens=_ids("suppress_tokens", suppress_tokens),
            begin_suppress_tokens=_ids("begin_suppress_tokens", begin_suppress_tokens),
        )
        self.active = self._rules.active or bool(self.processors)

    def apply(self, ids: Sequence[Sequence[int]], logits: NDArray[np.float32], threads: int = 1) -> None:
        """Change logits [rows, vocab] in place: row i is of the token that follows `ids[i]`.

        They may be log probabilities as well.

        Raises:
            qkv.Error: the array is not C-contiguous, writable float32 with a row for each of `ids`, or a function of
                the caller returned something else than float32 [vocab]. What such a function raises is passed on.
        """
        if not self.active:
            return
        _ext.apply_rules([self._rules] * len(ids), ids, logits, threads)
        self.process(ids, logits)

    @staticmethod
    def apply_all(
        rules: Sequence[LogitRules],
        ids: Sequence[Sequence[int]],
        logits: NDArray[np.float32],
        threads: int = 1,
        maxima: NDArray[np.float32] | None = None,
    ) -> list[Exception | None]:
        """`apply` for rows of many requests, in one call: row i by `rules[i]`, for the token that follows `ids[i]`.

        `maxima`: of the logits, as `_ext.choose` takes them; they become those of the changed ones, but for what a
        caller's function changes.

        Returns what a caller's function raised for each row: it concerns no other.
        """
        errors: list[Exception | None] = [None] * len(rules)
        if not any(one.active for one in rules):
            return errors
        _ext.apply_rules([one._rules if one.active else None for one in rules], ids, logits, threads, maxima)
        for i, one in enumerate(rules):
            try:
                one.process(ids[i : i + 1], logits[i : i + 1])
            except Exception as error:  # whatever it is
                errors[i] = error
        return errors

    def process(self, ids: Sequence[Sequence[int]], logits: NDArray[np.float32]) -> None:
        """The last part of `apply`: the caller's functions."""
        if not self.processors:
            return
        for sequence, row in zip(ids, logits, strict=True):
            tokens = np.array(sequence, np.int64)
            for processor in self.processors:
                row[:] = self._call(processor, tokens, row)

    def _call(
        self, processor: LogitsProcessor, ids: NDArray[np.int64], row: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        name = getattr(processor, "__name__", type(processor).__name__)
        step = f"step {len(ids) - self._start + 1}"
        try:
            result = processor(ids.copy(), row.copy())  # both are the function's own, to change or to keep
        except Exception as error:
            if hasattr(error, "add_note"):  # from Python 3.11 on
                error.add_note(f"qkv: raised by the logits_processor {name} at {step}")
            raise
        if not isinstance(result, np.ndarray) or result.shape != row.shape or result.dtype != np.float32:
            found = f"{result.dtype} {list(result.shape)}" if isinstance(result, np.ndarray) else f"{result!r:.60}"
            raise Error(f"logits_processor {name} returned {found} at {step}; expected float32 {list(row.shape)}")
        return result


def _ids(name: str, tokens: int | Iterable[int] | None) -> list[int]:
    """Token ids as C++ takes them: -1 for those beyond its integers, which no vocabulary has."""
    if tokens is None:
        return []
    listed = [tokens] if isinstance(tokens, int | np.integer) else list(tokens)
    if not all(isinstance(token, int | np.integer) and not isinstance(token, bool) for token in listed):
        raise Error(f"{name} is {listed!r:.80}; expected token ids, which are integers")
    return [int(token) if 0 <= token < 2**63 else -1 for token in listed]


def special_token(model: Model, key: str) -> Any:
    """From ``generation_config.json``, or else ``config.json``."""
    value = model.generation_config.get(key)
    return value if value is not None else getattr(model.config, key, None)
