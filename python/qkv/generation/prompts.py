"""Prompts as users give them, to token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qkv.errors import Error

if TYPE_CHECKING:
    from qkv.model import Model

Prompt = str | Sequence[int]


def is_single(prompts: Prompt | Sequence[Prompt]) -> bool:
    """Whether this is one prompt (text or token ids) and not a list of prompts; an empty list is a list.

    Raises:
        qkv.Error: it is neither.
    """
    if isinstance(prompts, bytes) or not isinstance(prompts, str | Sequence | np.ndarray):
        raise Error(f"prompts is {prompts!r:.60}; expected a text, a list of texts or lists of token ids")
    return isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], (int, np.integer)))


def encode_prompts(model: Model, prompts: Prompt | Sequence[Prompt]) -> list[list[int]]:
    """The token ids of every prompt, each at least one and with room for a new token in the model's context.

    Text is tokenised as the checkpoint's tokenizer does it, special tokens included. A prompt without tokens
    becomes the model's beginning-of-sequence token.

    Raises:
        qkv.Error: a prompt is neither text nor token ids, an id is not in the vocabulary, a prompt fills the
            context, it is empty and the model has no such token, or text is given and there is no tokenizer.
    """
    batch: list[Any] = [prompts] if is_single(prompts) else list(prompts)
    encoded = []
    for index, prompt in enumerate(batch):
        name = "the prompt" if is_single(prompts) else f"prompt {index}"
        ids = _encode_text(model, prompt, name) if isinstance(prompt, str) else _check_ids(model, prompt, name)
        encoded.append(ids or [_bos(model, name)])
        if model.context_length is not None and len(encoded[-1]) >= model.context_length:
            raise Error(
                f"{name} has {len(encoded[-1])} tokens, which leaves no room for a new one: the model's "
                f"context is {model.context_length} tokens, prompt and generated text together"
            )
    return encoded


def eos_token_ids(model: Model) -> frozenset[int]:
    """The tokens that end a text, from ``generation_config.json`` or else ``config.json``.

    Raises:
        qkv.Error: the value is neither an id nor a list of ids.
    """
    value = _special_token(model, "eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(i) is int for i in ids):
        raise Error(f"eos_token_id of the checkpoint is {value!r}; expected an integer or a list of integers")
    return frozenset(ids)


def _encode_text(model: Model, text: str, name: str) -> list[int]:
    if model.tokenizer is None:
        raise Error(f"{name} is text, but the checkpoint has no tokenizer; give token ids")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Error(f"{name} is not valid Unicode: {error}") from error
    return list(model.tokenizer.encode(text).ids)


def _check_ids(model: Model, prompt: Any, name: str) -> list[int]:
    try:
        ids = np.asarray(prompt)
    except ValueError:
        ids = np.asarray(None)  # lists of unequal lengths: no list of ids
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
        raise Error(f"{name} is {type(prompt).__name__} {prompt!r:.60}; expected text or a list of token ids")
    bad = ids[(ids < 0) | (ids >= model.vocab_size)]
    if bad.size:
        raise Error(f"{name} holds token id {bad[0]}; expected 0 to {model.vocab_size - 1}")
    return [int(i) for i in ids]


def _bos(model: Model, name: str) -> int:
    bos = _special_token(model, "bos_token_id")
    if type(bos) is not int or not 0 <= bos < model.vocab_size:
        raise Error(f"{name} is empty, and the model has no beginning-of-sequence token to start from")
    return bos


def _special_token(model: Model, key: str) -> Any:
    value = model.generation_config.get(key)
    return value if value is not None else getattr(model.config, key, None)
