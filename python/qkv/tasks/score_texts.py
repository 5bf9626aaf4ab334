"""Texts to be scored, as token ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkv.batches import TokenIds, as_sequences
from qkv.errors import Error
from qkv.generation.prompts import decoder_start, encode_text
from qkv.generation.rules import special_token

if TYPE_CHECKING:
    from tokenizers import Encoding

    from qkv.model import Model

Text = str | TokenIds


@dataclass(frozen=True)
class Item:
    """ids[start:] are scored; with `source`, what an encoder reads before."""

    name: str
    ids: NDArray[np.int32]
    start: int
    source: NDArray[np.int32] | None = None


def ids_of(model: Model, text: Text, name: str) -> NDArray[np.int32]:
    """With the special tokens that the tokenizer adds."""
    if isinstance(text, str):
        return np.array(encode_text(model, text, name).ids, np.int32)
    (ids,) = as_sequences([text], name)
    if ids.size and ids.max() >= model.vocab_size:
        raise Error(f"{name} holds token id {ids.max()}; expected 0 to {model.vocab_size - 1}")
    return ids


def item_of(model: Model, text: Any, name: str) -> Item:
    pair = isinstance(text, tuple) and len(text) == 2 and not any(isinstance(part, int | np.integer) for part in text)
    if model.encoder:
        if not pair:
            raise Error(f"{name}: this model has an encoder and a decoder; expected a pair (source, target)")
        source, target = (ids_of(model, part, f"{name}[{i}]") for i, part in enumerate(text))
        if not len(source):
            raise Error(f"{name}: the source is empty: there is nothing for the encoder to read")
        item = Item(name, np.concatenate([[decoder_start(model)], target]).astype(np.int32), 1, source)
    elif pair:
        context, continuation = _split(model, text[0], text[1], name)
        item = Item(name, np.concatenate([context, continuation]), len(context))
    else:
        item = Item(name, ids_of(model, text, name), 1)
        if len(item.ids) == 1:
            raise Error(f"{name} has one token, with nothing before it; give a pair (context, text), e.g. ('', text)")
    if len(item.ids) <= item.start:
        raise Error(f"{name}: the {'second text' if pair else 'text'} is empty: there is nothing to score")
    most = model.context_length
    if most is not None and (longest := max(len(item.ids) - 1, 0 if item.source is None else len(item.source))) > most:
        hint = "cut it" if pair else "cut it, or see perplexity()"
        raise Error(f"{name} has {longest} tokens to read; the model takes at most {most}: {hint}")
    return item


def _split(model: Model, context: Text, continuation: Text, name: str) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Ids of a context, at least one, and of what follows it. The two are tokenised together, so that a word begins
    with the token that it has in running text; spaces at the context's end go to the continuation. Both as
    lm-evaluation-harness does it."""
    if isinstance(context, str) != isinstance(continuation, str):
        raise Error(f"{name}: one half is text and the other token ids; expected two of a kind")
    if isinstance(context, str) and isinstance(continuation, str):
        if not continuation:
            raise Error(f"{name}: the second text is empty: there is nothing to score")
        begin = len(context.rstrip())
        continuation, context = context[begin:] + continuation, context[:begin]
        first = _without_end(encode_text(model, context, name))
        whole = _without_end(encode_text(model, context + continuation, name))
        before, after = np.array(first, np.int32), np.array(whole[len(first) :], np.int32)
    else:
        before, after = ids_of(model, context, f"{name}[0]"), ids_of(model, continuation, f"{name}[1]")
    return (before if len(before) else _beginning(model, name)), after


def _without_end(encoding: Encoding) -> list[int]:
    """Without special tokens behind the text: it goes on."""
    ids = list(encoding.ids)
    if 0 not in encoding.special_tokens_mask:
        return ids
    while encoding.special_tokens_mask[len(ids) - 1]:
        ids.pop()
    return ids


def _beginning(model: Model, name: str) -> NDArray[np.int32]:
    """What stands for an empty context."""
    for key in ("bos_token_id", "eos_token_id"):
        token = special_token(model, key)
        token = token[0] if isinstance(token, list) and token else token
        if type(token) is int and 0 <= token < model.vocab_size:
            return np.array([token], np.int32)
    raise Error(f"{name}: the context is empty, and the model has no token that begins or ends a text")


def masked_item(model: Model, text: Any, name: str) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Token ids, and where those are that are scored."""
    if isinstance(text, tuple) and len(text) == 2 and not any(isinstance(part, int | np.integer) for part in text):
        raise Error(f"{name}: a masked language model scores texts, not pairs")
    if isinstance(text, str):
        encoding = encode_text(model, text, name)
        ids, special = np.array(encoding.ids, np.int32), np.array(encoding.special_tokens_mask, bool)
    else:
        assert model.tokenizer
        ids = ids_of(model, text, name)
        special = np.isin(ids, [i for i, t in model.tokenizer.get_added_tokens_decoder().items() if t.special])
    if special.all():
        raise Error(f"{name} is empty: there is nothing to score")
    if model.context_length is not None and len(ids) > model.context_length:
        raise Error(f"{name} has {len(ids)} tokens; the model takes at most {model.context_length}")
    return ids, np.flatnonzero(~special)


def mask_token(model: Model) -> int:
    if model.tokenizer is None:
        raise Error("score: the checkpoint has no tokenizer, which would tell the token to mask others with")
    added = model.tokenizer.get_added_tokens_decoder()
    masks = [i for i, token in added.items() if token.special and "mask" in token.content.lower()]
    if len(masks) != 1:
        raise Error(f"score: the checkpoint's tokenizer has {len(masks)} tokens to mask others with; expected one")
    return masks[0]
