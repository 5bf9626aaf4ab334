"""What each option may be by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qkv.errors import Error

# Lengths and counts beyond it are mistakes, and would not fit C++'s integers.
_MOST = 2**31 - 1
# Those whose values hold token ids.
_OF_TOKENS = frozenset({
    "eos_token_id", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "forced_bos_token_id",
    "forced_eos_token_id", "logit_bias", "prefix",
})  # fmt: skip


class _Bad(Exception):  # noqa: N818 (never leaves this file)
    """The value is not what was expected."""


@dataclass(frozen=True)
class Kind:
    """
    Attributes:
        expected: what a value of this kind is, for people.
        read: from such a value to a plain Python one; raises _Bad.
    """

    expected: str
    read: Callable[[Any], Any]


def read(name: str, value: Any) -> Any:
    """A value as plain Python: lists as tuples, token ids as tuples even where there is one.

    Raises:
        qkv.Error: it is not what it should be.
    """
    kind = _KINDS[name]
    try:
        return kind.read(value)
    except _Bad:
        raise Error(f"{name} is {_shown(value)}; expected {kind.expected}") from None


def check_tokens(name: str, value: Any, vocab_size: int) -> None:
    """
    Raises:
        qkv.Error: a value that `read` returned holds a token id that is not in the vocabulary.
    """
    for token in _tokens(value) if name in _OF_TOKENS else ():
        if not 0 <= token < vocab_size:
            raise Error(f"{name} holds token id {token}; expected 0 to {vocab_size - 1}")


def known_tokens(name: str, value: Any, vocab_size: int) -> Any:
    """A value that `read` returned, without what is about tokens outside the vocabulary."""
    if name not in _OF_TOKENS or isinstance(value, str):
        return value
    known = [item for item in value if all(0 <= token < vocab_size for token in _tokens(item))]
    return {token: value[token] for token in known} if isinstance(value, Mapping) else tuple(known)


def _tokens(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif not isinstance(value, str):
        for item in value:
            yield from _tokens(item)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _items(value: Any) -> list[Any]:
    """Of a list, tuple, array or the like."""
    if isinstance(value, np.ndarray) and value.ndim:
        return list(value)
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes, bytearray)):
        raise _Bad
    return list(value)


def _integer(least: int, most: int = _MOST) -> Kind:
    def read(value: Any) -> int:
        if not _is_integer(value) or not least <= value <= most:
            raise _Bad
        return int(value)

    return Kind(f"an integer >= {least}" if most >= _MOST else f"an integer from {least} to {most}", read)


def _number(expected: str, allowed: Callable[[float], bool] = lambda number: True) -> Kind:
    def read(value: Any) -> float:
        if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
            raise _Bad
        try:
            number = float(value)
        except OverflowError:  # an integer
            raise _Bad from None
        if not math.isfinite(number) or not allowed(number):
            raise _Bad
        return number

    return Kind(expected, read)


def _flag(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise _Bad
    return bool(value)


def _early_stopping(value: Any) -> bool | str:
    return "never" if isinstance(value, str) and value == "never" else _flag(value)


def _left(value: Any) -> str:
    if not isinstance(value, str) or value != "left":
        raise _Bad
    return "left"


def _texts(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else _items(value)
    if not all(isinstance(text, str) and text for text in texts):
        raise _Bad
    return tuple(texts)


def _ids(value: Any) -> tuple[int, ...]:
    ids = _items(value)
    if not all(map(_is_integer, ids)):
        raise _Bad
    return tuple(int(i) for i in ids)


def _id_or_ids(value: Any) -> tuple[int, ...]:
    return (int(value),) if _is_integer(value) else _ids(value)


def _words(value: Any) -> tuple[tuple[int, ...], ...]:
    words = tuple(_ids(word) for word in _items(value))
    if not all(words):
        raise _Bad
    return words


def _bias(value: Any) -> dict[int, float]:
    if not isinstance(value, Mapping) or not all(map(_is_integer, value)):
        raise _Bad
    number = _number("").read
    return {int(token): bias if _is_minus_infinity(bias) else number(bias) for token, bias in value.items()}


def _is_minus_infinity(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) and value == -math.inf


def _processors(value: Any) -> tuple[Callable[..., Any], ...]:
    processors = [value] if callable(value) else _items(value)
    if not all(map(callable, processors)):
        raise _Bad
    return tuple(processors)


def _prefix(value: Any) -> str | tuple[int, ...]:
    if not isinstance(value, str):
        return _ids(value)
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character
        raise _Bad from None
    return value


def _model(value: Any) -> Any:
    from qkv.model import Model  # at its own import, this package's is not finished

    if not isinstance(value, Model):
        raise _Bad
    return value


def _state(value: Any) -> Any:
    from qkv.generation.state import State  # at its own import, this package's is not finished

    if not isinstance(value, State):
        raise _Bad
    return value


def _usual(value: Any) -> Any:
    """For `SamplingParams`, which checks all but that it fits C++."""
    if isinstance(value, int) and abs(value) > _MOST:
        raise _Bad
    return value


_FLAG = Kind("True or False", _flag)
_COUNT = _integer(1)
_SIZE = _integer(0)
_TOKEN_IDS = Kind("a list of token ids", _ids)
_TOKEN_OR_TOKENS = Kind("a token id or a list of token ids", _id_or_ids)
_PENALTY = _number("a number > 0; 1 changes nothing", lambda number: number > 0)
_SUBTRACTED = _number("a number from 0 to 2; 0 changes nothing", lambda number: 0 <= number <= 2)
_SHARE = _number("", lambda number: 0 <= number <= 1)
_FILTER = Kind(f"a number up to {_MOST}", _usual)

_KINDS: Mapping[str, Kind] = {
    "max_new_tokens": _COUNT,
    "max_length": _COUNT,
    "min_new_tokens": _SIZE,
    "min_length": _SIZE,
    "max_time": _number("a number of seconds > 0", lambda number: number > 0),
    "stop_strings": Kind("texts of at least one character", _texts),
    "eos_token_id": _TOKEN_OR_TOKENS,
    "do_sample": _FLAG,
    "temperature": _FILTER,
    "top_k": Kind("an integer >= 1, or 0 or None to keep all tokens", _SIZE.read),
    "top_p": _FILTER,
    "min_p": _FILTER,
    "typical_p": _FILTER,
    "epsilon_cutoff": _FILTER,
    "eta_cutoff": _FILTER,
    "seed": Kind("an integer >= 0 and < 2**64", _integer(0, most=2**64 - 1).read),
    "repetition_penalty": _PENALTY,
    "encoder_repetition_penalty": _PENALTY,
    "presence_penalty": _SUBTRACTED,
    "frequency_penalty": _SUBTRACTED,
    "no_repeat_ngram_size": _SIZE,
    "encoder_no_repeat_ngram_size": _SIZE,
    "bad_words_ids": Kind("lists of token ids, each of at least one", _words),
    "suppress_tokens": _TOKEN_IDS,
    "begin_suppress_tokens": _TOKEN_IDS,
    "forced_bos_token_id": _TOKEN_OR_TOKENS,
    "forced_eos_token_id": _TOKEN_OR_TOKENS,
    "logit_bias": Kind("a mapping from token ids to numbers", _bias),
    "logits_processor": Kind("a function of token ids and logits, or a list of them", _processors),
    "num_beams": _COUNT,
    "num_beam_groups": _COUNT,
    "diversity_penalty": _number("a number >= 0", lambda number: number >= 0),
    "length_penalty": _number("a number"),
    "early_stopping": Kind("True, False or 'never'", _early_stopping),
    "num_return_sequences": _COUNT,
    "return_alternatives": _FLAG,
    "penalty_alpha": Kind("a number from 0 to 1", lambda value: _SHARE.read(value) or None),
    "prompt_lookup_num_tokens": _COUNT,
    "max_matching_ngram_size": _COUNT,
    "assistant_model": Kind("a model that qkv.load opened", _model),
    "num_assistant_tokens": _COUNT,
    "logprobs": _integer(0, 20),
    "truncate": Kind("'left' or None", _left),
    "prefix": Kind("a text or a list of token ids", _prefix),
    "state": Kind("the state of a generation", _state),
    "keep_state": _FLAG,
    "priority": _integer(-_MOST),
}
