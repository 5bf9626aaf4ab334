"""T5's relative positions (Raffel et al. 2020, section 2.1): a learned bias of scores for each head and bucket of
distances."""

from __future__ import annotations

import math

import numpy as np

from qkv.checkpoint import Weights
from qkv.graph import RelativeBias


def bucketed_bias(w: Weights, heads: int, *, buckets: int, max_distance: int, bidirectional: bool) -> RelativeBias:
    """The bias of distances -max_distance ... max_distance; from there on they share the last bucket."""
    distances = np.arange(-max_distance, max_distance + 1)
    return RelativeBias(
        w.param("weight", (buckets, heads)), tuple(bucket(distances, buckets, max_distance, bidirectional).tolist())
    )


def bucket(distances: np.ndarray, buckets: int, max_distance: int, bidirectional: bool) -> np.ndarray:
    """The bucket of each distance key - query: int64.

    Half of the buckets are for one distance each, the others grow with its logarithm up to `max_distance`. If
    `bidirectional`, half of all are for keys behind the query; otherwise those keys are as good as at distance 0.
    """
    if bidirectional:
        buckets //= 2
        first, away = np.where(distances > 0, buckets, 0), np.abs(distances)
    else:
        first, away = np.zeros_like(distances), np.maximum(-distances, 0)
    exact = buckets // 2
    # in float32, as where the checkpoints were trained: a border between buckets is where it rounds to
    growth = np.log(np.maximum(away, exact).astype(np.float32) / np.float32(exact))
    growth = growth / np.float32(math.log(max_distance / exact)) * np.float32(buckets - exact)
    far = np.minimum(exact + growth.astype(np.int64), buckets - 1)
    found: np.ndarray = first + np.where(away < exact, away, far)
    return found
