"""What a checkpoint says about single tokens of a generated text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qkv.errors import Error

if TYPE_CHECKING:
    from qkv.model import Model


@dataclass(frozen=True)
class TokenRules:
    """
    Attributes:
        end: tokens that end the text.
        first: the token that follows the first one, such as the language that a translation is to be in.
        last: the token of the last place, where the text was not ended before.
        never: tokens that are never chosen.
        bad_words: token sequences whose last token is never chosen after the others.
    """

    end: frozenset[int] = frozenset()
    first: int | None = None
    last: int | None = None
    never: tuple[int, ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(cls, model: Model) -> TokenRules:
        """From ``generation_config.json``. Without this file all of them are from ``config.json``; the tokens that end
        a text are in any case, when the former does not name any.

        Raises:
            qkv.Error: a value is not what it should be.
        """
        end = frozenset(_tokens(model, "eos_token_id", special_token(model, "eos_token_id")))

        def tokens(key: str) -> tuple[int, ...]:
            return _tokens(model, key, _setting(model, key))

        words = _setting(model, "bad_words_ids") or []
        if not isinstance(words, list) or not all(words):
            raise Error(f"bad_words_ids of the checkpoint is {words!r:.80}; expected lists of token ids")
        bad_words = tuple(_tokens(model, "bad_words_ids", word) for word in words)
        return cls(
            end=end,
            first=min(tokens("forced_bos_token_id"), default=None),
            last=min(tokens("forced_eos_token_id"), default=None),
            never=tokens("suppress_tokens"),
            bad_words=tuple(word for word in bad_words if len(word) > 1 or word[0] not in end),
        )

    def forced(self, ids: Sequence[int], last: bool) -> int | None:
        """The token that must follow `ids`, if the rules say so; `last`: it is the last one."""
        if last and self.last is not None:
            return self.last
        return self.first if len(ids) == 1 else None

    def apply(self, ids: Sequence[int], logits: np.ndarray) -> np.ndarray:
        """Logits of the token after `ids`, with minus infinity for those that must not be chosen: float32 `[vocab]`."""
        banned = [*self.never, *(w[-1] for w in self.bad_words if tuple(ids[len(ids) - len(w) + 1 :]) == w[:-1])]
        if not banned:
            return logits
        allowed = logits.copy()
        allowed[[token for token in banned if 0 <= token < len(logits)]] = -np.inf
        return allowed


def special_token(model: Model, key: str) -> Any:
    """From ``generation_config.json``, or else ``config.json``."""
    value = model.generation_config.get(key)
    return value if value is not None else getattr(model.config, key, None)


def _setting(model: Model, key: str) -> Any:
    """``generation_config.json`` replaces all that an older ``config.json`` says about generation."""
    return model.generation_config.get(key) if model.generation_config else getattr(model.config, key, None)


def _tokens(model: Model, key: str, value: Any) -> tuple[int, ...]:
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(i) is int for i in ids):
        raise Error(f"{key} of the checkpoint is {value!r:.80}; expected an integer or a list of integers")
    return tuple(ids)
