"""Prompts as users give them, to token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qkv.errors import Error
from qkv.generation.rules import special_token

if TYPE_CHECKING:
    from tokenizers import Encoding

    from qkv.model import Model

Prompt = str | Sequence[int]

_CUT = "shorten it, or let truncate='left' keep its end"


def is_single(prompts: Prompt | Sequence[Prompt]) -> bool:
    """Whether this is one prompt (text or token ids) and not a list of prompts; an empty list is a list.

    Raises:
        qkv.Error: it is neither.
    """
    if isinstance(prompts, bytes) or not isinstance(prompts, str | Sequence | np.ndarray):
        raise Error(f"prompts is {prompts!r:.60}; expected a text, a list of texts or lists of token ids")
    return isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], (int, np.integer)))


def encode_prompts(model: Model, prompts: Prompt | Sequence[Prompt], longest: int | None = None) -> list[list[int]]:
    """The token ids of every prompt, each at least one.

    A decoder's context has room for a new token behind the prompt; an encoder's may be filled by it. Text is
    tokenised as the checkpoint's tokenizer does it, special tokens included. A decoder's prompt without tokens
    becomes its beginning-of-sequence token.

    Args:
        longest: of a longer prompt only the last so many tokens are kept, >= 1. Special tokens that the tokenizer puts
            before a text stay there; where a prompt is token ids, none are known.

    Raises:
        qkv.Error: a prompt is neither text nor token ids, an id is not in the vocabulary, a prompt is longer than
            that, it is empty and there is no such token, or text is given and there is no tokenizer.
    """
    batch: list[Any] = [prompts] if is_single(prompts) else list(prompts)
    encoded = []
    for index, prompt in enumerate(batch):
        name = "the prompt" if is_single(prompts) else f"prompt {index}"
        if isinstance(prompt, str):
            encoding = encode_text(model, prompt, name)
            ids, special = list(encoding.ids), _special_tokens_before(encoding)
        else:
            ids, special = _check_ids(model, prompt, name), 0
        if longest is not None:
            ids = _truncated(ids, special, longest)
        encoded.append(ids or [_bos(model, name)])
        _check_length(model, len(encoded[-1]), name)
    return encoded


def encode_continuation(model: Model, prompt: Prompt) -> list[int]:
    """The token ids of what carries a conversation on, without the special tokens that begin or end a text; none for an
    empty prompt.

    Raises:
        qkv.Error: as `encode_prompts`.
    """
    if not isinstance(prompt, str):
        return _check_ids(model, prompt, "the prompt")
    return list(encode_text(model, prompt, "the prompt", special_tokens=False).ids)


def _check_length(model: Model, tokens: int, name: str) -> None:
    most = model.context_length
    if most is None:
        return
    if model.encoder and tokens > most:
        raise Error(f"{name} has {tokens} tokens; the model's encoder reads at most {most}: {_CUT}")
    if not model.encoder and tokens >= most:
        raise Error(
            f"{name} has {tokens} tokens, which leaves no room for a new one: the model's "
            f"context is {most} tokens, prompt and generated text together: {_CUT}"
        )


def decoder_start(model: Model) -> int:
    """The token that a decoder starts from, where an encoder reads the prompt.

    Raises:
        qkv.Error: the checkpoint names none, or one that is not in the vocabulary.
    """
    for key in ("decoder_start_token_id", "bos_token_id"):
        if (token := special_token(model, key)) is not None:
            break
    vocab = model.program.width("logits")
    if type(token) is not int or not 0 <= token < vocab:
        raise Error(f"decoder_start_token_id of the checkpoint is {token!r}; expected a token id, 0 to {vocab - 1}")
    return token


def _truncated(ids: list[int], special: int, longest: int) -> list[int]:
    """The last tokens, behind the first `special` ones."""
    if len(ids) <= longest:
        return ids
    kept = min(special, longest - 1)
    return ids[:kept] + ids[len(ids) - (longest - kept) :]


def encode_text(model: Model, text: str, name: str, *, special_tokens: bool = True) -> Encoding:
    """What the checkpoint's tokenizer makes of a text, with the special tokens that it adds or without.

    Raises:
        qkv.Error: there is no tokenizer, or the text is not valid Unicode; `name` begins the message.
    """
    if model.tokenizer is None:
        raise Error(f"{name} is text, but the checkpoint has no tokenizer; give token ids")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Error(f"{name} is not valid Unicode: {error}") from error
    return model.tokenizer.encode(text, add_special_tokens=special_tokens)


def _special_tokens_before(encoding: Encoding) -> int:
    mask = encoding.special_tokens_mask
    return mask.index(0) if 0 in mask else 0


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
    if model.encoder:
        raise Error(f"{name} is empty: there is nothing for the encoder to read")
    bos = special_token(model, "bos_token_id")
    if type(bos) is not int or not 0 <= bos < model.vocab_size:
        raise Error(f"{name} is empty, and the model has no beginning-of-sequence token to start from")
    return bos
