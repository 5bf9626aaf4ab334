"""LayerNorm and RMSNorm on every instruction set."""

import numpy as np
import pytest
from tests.kernels.reference import assert_close, assert_same_bits, normal

from qkv import _ext

EPS = 1e-5


def expected(x, weight, bias, centred):
    x = x.astype(float)
    mean = x.mean(axis=1, keepdims=True) if centred else 0
    scale = weight / np.sqrt(((x - mean) ** 2).mean(axis=1, keepdims=True) + EPS)
    bias = np.zeros(x.shape[1]) if bias is None else bias
    return (x - mean) * scale + bias, abs(x).max(axis=1, keepdims=True) * abs(scale) + abs(bias)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("mean", [0, 1000])
def test_every_length(isa, centred, mean):
    """With a mean of 1000, a variance taken in one pass, E[x²] - E[x]², would be off by some percent."""
    for n in [*range(1, 8 * _ext.chosen_isa()["lanes"] + 2), 384, 768, 4097]:
        x, weight = normal(n, 3, n) + np.float32(mean), normal(1, n)
        bias = normal(2, n) if n % 2 else None
        assert_close(_ext.norm(x, weight, bias, EPS, centred), *expected(x, weight, bias, centred))


@pytest.mark.parametrize("centred", [False, True])
def test_rows_and_threads_do_not_change_bits(isa, centred):
    x, weight, bias = normal(1, 203, 301), normal(2, 301), normal(3, 301)
    together = _ext.norm(x, weight, bias, EPS, centred)
    assert_same_bits(together, np.concatenate([_ext.norm(row[None], weight, bias, EPS, centred) for row in x]))
    for threads in (2, 3):
        assert_same_bits(_ext.norm(x, weight, bias, EPS, centred, threads), together)


@pytest.mark.parametrize("centred", [False, True])
def test_values_that_do_not_vary(isa, centred):
    """Equal values have no variance: eps decides, and LayerNorm makes exact zeros."""
    y = _ext.norm(np.full((2, 40), 3, np.float32), np.ones(40, np.float32), None, EPS, centred)
    np.testing.assert_allclose(y, 0 if centred else 1, rtol=1e-5)
    assert not _ext.norm(np.zeros((2, 40), np.float32), np.ones(40, np.float32), None, EPS, centred).any()


@pytest.mark.parametrize("centred", [False, True])
def test_nan_stays_in_its_row(isa, centred):
    for column in (0, 17, 36):
        x = normal(1, 5, 37)
        x[2, column] = np.nan
        y = _ext.norm(x, normal(2, 37), None, EPS, centred)
        assert (np.isnan(y) == (np.arange(5) == 2)[:, None]).all()


def test_sizes_that_do_not_fit_are_errors():
    x, weight = normal(1, 2, 8), normal(2, 8)
    for call in (
        lambda: _ext.norm(x[0, 0], weight, None, EPS, True),
        lambda: _ext.norm(x.T, weight, None, EPS, True),
        lambda: _ext.norm(x, weight[:7], None, EPS, True),
        lambda: _ext.norm(x, weight, weight[:7], EPS, True),
    ):
        with pytest.raises(ValueError, match="norm"):
            call()
