"""Log probabilities against float64, on every instruction set, and rows that have none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax

import qkv
from qkv import _ext

BAD = [[0.0, np.nan, 1.0], [np.inf, 0.0, 1.0], [-np.inf] * 3, [np.nan, np.inf, -np.inf], [np.inf, np.inf, 0.0]]


def rows_of(rows: int, vocab: int, spread: float = 4.0) -> np.ndarray:
    logits = (np.random.default_rng(vocab).standard_normal((rows, vocab)) * spread).astype(np.float32)
    logits[0, :: 3 if vocab > 1 else 2] = -np.inf if vocab > 1 else 0.0
    return logits


@pytest.mark.parametrize("vocab", [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1000, 50_257])
@pytest.mark.parametrize("spread", [0.1, 4.0, 30.0])
def test_logprobs_equal_float64(isa: str, vocab: int, spread: float) -> None:
    logits = rows_of(5, vocab, spread)
    want = log_softmax(logits.astype(np.float64), axis=-1)
    tokens = np.random.default_rng(1).integers(0, vocab, 5)
    top_n = min(vocab, 20)
    of_tokens, ids, of_top = _ext.logprobs(logits, tokens, top_n, 2)
    np.testing.assert_allclose(of_tokens, want[range(5), tokens], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(ids, np.argsort(-logits, axis=-1, kind="stable")[:, :top_n])
    np.testing.assert_allclose(of_top, np.take_along_axis(want, ids, -1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("vocab", [1, 17, 64, 65, 1000, 50_257])
def test_log_softmax_in_place_equals_torch(isa: str, vocab: int) -> None:
    logits = rows_of(5, vocab)
    want = torch.from_numpy(logits).double().log_softmax(-1).numpy()  # in float32 it errs by 1e-5 itself
    _ext.log_softmax(logits, 2)
    # float32 has a spacing of 2e-6 where a log probability is below -16
    np.testing.assert_allclose(logits, want, rtol=1e-7, atol=1e-6)


@given(arrays(np.float32, (3, 130), elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 3.0])), st.integers(0, 130))
@settings(deadline=None)
def test_of_equally_likely_tokens_the_lowest_come_first(logits: np.ndarray, top_n: int) -> None:
    logits[:, 77] = 0.0
    _, ids, of_top = _ext.logprobs(logits, np.zeros(3, np.int64), top_n)
    np.testing.assert_array_equal(ids, np.argsort(-logits, axis=-1, kind="stable")[:, :top_n])
    np.testing.assert_array_equal(of_top, -np.sort(-of_top))


def test_rows_and_threads_do_not_matter() -> None:
    logits = rows_of(9, 5000)
    tokens = np.arange(9)
    together = _ext.logprobs(logits, tokens, 5, 2)
    for row in range(9):
        alone = _ext.logprobs(logits[row : row + 1], tokens[row : row + 1], 5, 1)
        for whole, part in zip(together, alone, strict=True):
            np.testing.assert_array_equal(whole[row : row + 1], part)
    changed = logits.copy()
    _ext.log_softmax(changed, 2)
    for row in range(9):
        _ext.log_softmax(logits[row : row + 1], 1)
    np.testing.assert_array_equal(changed, logits)


def test_rows_without_probabilities(isa: str) -> None:
    logits = np.array([[1.0, 2.0, 0.5], *BAD], np.float32)
    of_tokens, ids, of_top = _ext.logprobs(logits, np.zeros(6, np.int64), 2)
    assert np.isnan(of_tokens[1:]).all()
    assert np.isnan(of_top[1:]).all()
    np.testing.assert_array_equal(ids[1:], [[0, 1]] * 5)
    assert np.isfinite(of_tokens[0])
    _ext.log_softmax(logits)
    assert np.isnan(logits[1:]).all()
    assert np.isfinite(logits[0]).all()


def test_bad_arguments() -> None:
    logits = np.zeros((2, 7), np.float32)
    with pytest.raises(qkv.Error, match="token 7 of row 1 is not in the vocabulary, 0 to 6"):
        _ext.logprobs(logits, np.array([0, 7]))
    with pytest.raises(qkv.Error, match="token -1 of row 0"):
        _ext.logprobs(logits, np.array([-1, 0]))
    with pytest.raises(qkv.Error, match=r"tokens must be \[2\]"):
        _ext.logprobs(logits, np.array([0]))
    with pytest.raises(qkv.Error, match="top_n is 8; expected 0 to 7"):
        _ext.logprobs(logits, np.array([0, 1]), 8)
    with pytest.raises(qkv.Error, match="log_softmax: logits must be a C-contiguous, writable float32"):
        _ext.log_softmax(logits.astype(np.float64))
    assert [part.shape for part in _ext.logprobs(logits[:0], np.zeros(0, np.int64), 3)] == [(0,), (0, 3), (0, 3)]
