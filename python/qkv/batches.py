"""Sequences of token ids as they are given, checked and laid end to end for a run, and rows cut back into sequences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.errors import Error
from qkv.source import Source

# Tokens of a long text in one run. It bounds the memory of activations; results do not depend on it.
PREFILL_TOKENS = 512

# The rows that logits are for: every token, the last of each sequence, none, or these, counted through all sequences.
Wanted = Literal["all", "last", "none"] | NDArray[np.int64] | list[int]

TokenIds = Sequence[int] | NDArray[np.integer[Any]]


def as_sequences(batch: Sequence[TokenIds], what: str) -> list[NDArray[np.int32]]:
    """Checked int32 arrays of a batch of ids.

    Raises:
        qkv.Error: a sequence is not a list of integers that fit int32.
    """
    if isinstance(batch, str | bytes) or not hasattr(batch, "__iter__"):
        raise Error(f"{what}: expected a list of sequences of token ids, got {type(batch).__name__}")
    return [_as_ids(sequence, f"{what}[{i}]") for i, sequence in enumerate(batch)]


def _as_ids(sequence: TokenIds, what: str) -> NDArray[np.int32]:
    try:
        ids = np.asarray(sequence)
    except ValueError:
        ids = np.asarray(None)  # ragged: not a sequence of integers
    if ids.size == 0 and ids.ndim == 1:
        return np.empty(0, np.int32)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise Error(f"{what}: expected a sequence of integer token ids, got {sequence!r:.80}")
    if ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
        raise Error(f"{what}: token id {ids.min() if ids.min() < 0 else ids.max()} is out of range")
    return ids.astype(np.int32)


def make_batch(
    sequences: Sequence[NDArray[np.int32]],
    wanted: Wanted = "none",
    *,
    past: Sequence[int] | None = None,
    planned: Sequence[int] | None = None,
    cache: _ext.KVCache | None = None,
    pages: Sequence[list[int]] | None = None,
    token_type_ids: Sequence[NDArray[np.int32]] | None = None,
    source: Source | None = None,
    weights: Sequence[Sequence[NDArray[np.float32]]] = (),
    cross_weights: Sequence[Sequence[NDArray[np.float32]]] = (),
) -> _ext.Batch:
    """What one run works on; `Runner.run_all` describes the rest."""
    ends = list(accumulate(map(len, sequences), initial=0))
    rows: list[int] | NDArray[np.int64]
    if not isinstance(wanted, str):
        rows = wanted
    elif wanted == "all":
        rows = np.arange(ends[-1])
    else:
        rows = [end - 1 for end in ends[1:]] if wanted == "last" else []
    return _ext.Batch(
        token_ids=_joined(sequences),
        cu_seqlens=ends,
        type_ids=_joined(token_type_ids or ()),
        wanted=rows,
        past=past if past is not None else [],
        cache=cache,
        pages=pages or [],
        source=source.cache if source else None,
        source_pages=source.pages if source else [],
        source_lengths=source.lengths if source else [],
        weights=[list(arrays) for arrays in weights],
        cross_weights=[list(arrays) for arrays in cross_weights],
        planned=planned if planned is not None else [],
    )


def cut(rows: NDArray[np.float32], sequences: Sequence[NDArray[np.int32]], axis: int = 0) -> list[NDArray[np.float32]]:
    """Rows of all tokens, cut back into sequences."""
    ends = np.cumsum([len(s) for s in sequences])
    return np.split(rows, ends[:-1], axis) if len(sequences) else []


def _joined(sequences: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate(sequences) if len(sequences) else np.empty(0, np.int32)
