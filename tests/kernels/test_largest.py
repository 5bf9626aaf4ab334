"""The few largest of many logits, found by the maxima of their blocks."""

from __future__ import annotations

import numpy as np
import pytest

from qkv import _ext
from qkv.generation.sampling import SamplingParams


@pytest.mark.parametrize("vocab", [15, 64, 65, 1000, 5003])
def test_the_largest_stay(isa: str, vocab: int) -> None:
    """With ties, which all stay, and tokens that are ruled out."""
    logits = np.random.default_rng(vocab).standard_normal(vocab).astype(np.float32).round(1)
    logits[1::7] = -np.inf
    for k in {1, 3, 17, 200, vocab - 1} & set(range(1, vocab)):
        ids, _ = _ext.candidates(SamplingParams(top_k=k).filters(), logits)
        least = max(np.sort(logits)[-k], np.finfo(np.float32).min)
        assert ids.tolist() == np.flatnonzero(logits >= least).tolist()
