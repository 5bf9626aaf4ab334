"""Sentence embeddings (Reimers, Gurevych 2019): tokens -> hidden states -> one pooled row a text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qkv.errors import Error

if TYPE_CHECKING:
    from qkv.model import Model

# Batches from which on a terminal shows a progress bar.
_LONG = 10


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
        raise Error("this checkpoint has no tokenizer.json: pass token ids to hidden_states() or logits() instead")
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise Error(f"encode: texts[{i}] is not a string but {type(text).__name__}")
    if model.sentence_modules.do_lower_case:
        texts = [text.lower() for text in texts]
    limit = min(model.sentence_modules.max_seq_length or model.context_length, model.context_length)
    special = model.tokenizer.num_special_tokens_to_add(False)
    encodings = model.tokenizer.encode_batch_fast(texts)
    # Cut as the tokenizer's own truncation would: the text's tokens, not the special ones around them. A tokenizer
    # object has one truncation setting, so it is switched on for a moment only when something is too long.
    ids = [np.array(e.ids, np.int32) for e in encodings]
    if any(len(i) > limit for i in ids) and limit > special:
        short = type(model.tokenizer).from_str(model.tokenizer.to_str())
        short.enable_truncation(limit)
        ids = [
            i if len(i) <= limit else np.array(short.encode(t).ids, np.int32) for i, t in zip(ids, texts, strict=True)
        ]
    return ids


def _progress(starts: range, show: bool | None) -> Iterable[int]:
    if show is None:
        show = sys.stderr.isatty() and len(starts) > _LONG
    if not show:
        return starts
    from rich.console import Console
    from rich.progress import track

    return track(starts, "Encoding", console=Console(stderr=True))
