"""Sentence embeddings (Reimers, Gurevych 2019): tokens -> hidden states -> one pooled row a text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from qkv.errors import Error

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from qkv.model import Model

# With more batches than these, a terminal shows a progress bar.
_SHORT = 4
# Texts tokenised in one call, which Ctrl-C can't interrupt.
_TEXTS = 512
_cutting_tokenizers: WeakKeyDictionary[Model, Tokenizer] = WeakKeyDictionary()


def encode(
    model: Model,
    texts: str | Sequence[str],
    batch_size: int,
    normalize_embeddings: bool,
    show_progress_bar: bool | None,
) -> NDArray[np.float32]:
    """See `Model.encode`."""
    if isinstance(texts, str):
        row: NDArray[np.float32] = encode(model, [texts], batch_size, normalize_embeddings, show_progress_bar)[0]
        return row
    if model.encoder:
        raise Error("encode: a model with an encoder and a decoder has no sentence embeddings; see generate()")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise Error(f"encode: batch_size must be a positive integer, not {batch_size!r}")
    ids = tokenize(model, texts)
    longest_first = np.argsort([-len(i) for i in ids], kind="stable")
    starts = range(0, len(ids), batch_size)
    rows = np.empty((len(ids), model.hidden_size), np.float32)
    for start in _progress(starts, show_progress_bar):
        batch = longest_first[start : start + batch_size]
        rows[batch] = model.run("embedding", [ids[i] for i in batch])
    if normalize_embeddings or model.sentence_modules.normalize:
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows


def tokenize(model: Model, texts: Sequence[str]) -> list[NDArray[np.int32]]:
    """Ids of each text with the special tokens, cut to what the model takes.

    Raises:
        qkv.Error: there is no tokenizer, or a text is not a string.
    """
    if model.tokenizer is None:
        raise Error("this checkpoint has no tokenizer: pass token ids to hidden_states() or logits() instead")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise Error(f"encode: texts[{i}] is not a string but {type(text).__name__}")
    if model.sentence_modules.do_lower_case:
        texts = [text.lower() for text in texts]
    tokenizer = _cutting_tokenizer(model)
    return [
        np.array(encoding.ids, np.int32)
        for start in range(0, len(texts), _TEXTS)
        for encoding in tokenizer.encode_batch_fast(texts[start : start + _TEXTS])
    ]


def _cutting_tokenizer(model: Model) -> Tokenizer:
    """The model's tokenizer, cutting texts to what the model takes; a copy, as the user may use the other."""
    assert model.tokenizer is not None
    if model not in _cutting_tokenizers:
        tokenizer = type(model.tokenizer).from_str(model.tokenizer.to_str())
        limits = [n for n in (model.sentence_modules.max_seq_length, model.context_length) if n is not None]
        if limits and min(limits) > tokenizer.num_special_tokens_to_add(False):
            tokenizer.enable_truncation(min(limits))
        _cutting_tokenizers[model] = tokenizer
    return _cutting_tokenizers[model]


def _progress(starts: range, show: bool | None) -> Iterable[int]:
    if show is None:
        show = sys.stderr.isatty() and len(starts) > _SHORT
    if not show:
        return starts
    from rich.console import Console
    from rich.progress import track

    return track(starts, "Encoding", console=Console(stderr=True))
