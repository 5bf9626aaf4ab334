"""int8 and int4 linear layers on every instruction set: exact against integers, same bits in every tile."""

import numpy as np
import pytest
from tests.kernels.reference import assert_same_bits, normal, pack

from qkv import Error, _ext

GROUP = 32


def quantised_rows(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the kernels make of activations: int64 values [rows, k] and float32 scales [rows, 1]."""
    largest = abs(x).max(axis=1, keepdims=True)
    safe = np.where(largest > 1e-30, largest, np.inf).astype(np.float32)
    return np.rint(x * (np.float32(127) / safe)).astype(np.int64), (largest / np.float32(127)).astype(np.float32)


def unpacked(dtype: str, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The integers that a packed weight holds [n, k] and its scales [1, n].

    Read through the kernel: a row of activations with a single 1 gives that column of weights times their scales.
    """
    k = w.shape[1]
    largest = abs(w).max(axis=1)
    scales = (largest / np.float32(127)).astype(np.float32)
    columns = _ext.linear(np.eye(k, dtype=np.float32) * 127, pack(w, dtype), "identity", None)  # [k, n]
    values = columns.T / np.where(scales > 0, scales, 1)[:, None] / 127
    assert np.allclose(values, np.rint(values), atol=1e-3)
    return np.rint(values).astype(np.int64), scales[None]


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("k", [1, 3, 4, 31, 32, 33, 64, 131, 257])
@pytest.mark.parametrize("n", [1, 15, 64, 65, 130])
def test_exact_against_integers(isa: str, dtype: str, k: int, n: int) -> None:
    w = normal(k, n, k)
    values, scales = unpacked(dtype, w)
    for rows in (1, 2, 5, 6, 7, 13, 30):
        x = normal(rows, rows, k)
        q, x_scales = quantised_rows(x)
        expected = (q @ values.T).astype(np.float32) * (x_scales * scales)
        assert_same_bits(_ext.linear(x, pack(w, dtype), "identity", None), expected)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_weights_are_the_nearest_integers(isa: str, dtype: str) -> None:
    """int8: rounded to the nearest; int4: on a line in every group, within what 15 equal steps allow."""
    w = normal(3, 40, 96) * np.exp(normal(4, 40, 1))
    values, scales = unpacked(dtype, w)
    exact = w / scales.T
    if dtype == "int8":
        assert abs(values - exact).max() <= 0.5001
        return
    groups, exact = (a.reshape(40, -1, GROUP) for a in (values, exact))
    for line in groups.reshape(-1, GROUP):
        assert len(np.unique(line)) <= 16
        steps = np.diff(np.unique(line))
        assert (steps % steps.min() == 0).all()
    # Equal steps over the span of a group, not clipped, err by step^2 / 12 on average. Integers as multiplier and
    # offset cost a little.
    span = exact.max(axis=2) - exact.min(axis=2)
    assert ((groups - exact) ** 2).mean() <= 1.15 * ((span / 15) ** 2 / 12).mean()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("gated", [False, True])
def test_same_bits_in_every_tile(isa: str, dtype: str, gated: bool) -> None:
    """A row alone, in any tile and with any number of threads."""
    weight = pack(normal(1, 70, 100), dtype, normal(2, 70), normal(3, 70, 100) if gated else None)
    x, residual = normal(9, 200, 100), normal(8, 200, 70)
    whole = _ext.linear(x, weight, "gelu", residual, 2)
    for rows in (1, 2, 6, 7, 100):
        parts = [_ext.linear(x[i : i + rows], weight, "gelu", residual[i : i + rows], 1) for i in range(0, 200, rows)]
        assert_same_bits(np.concatenate(parts), whole)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_extreme_values(isa: str, dtype: str) -> None:
    """The largest sums fit; zeros, tiny and non-finite rows spoil nothing but themselves."""
    k = 65536
    ones = np.ones((2, k), np.float32)
    ones[1] = -1
    y = _ext.linear(ones, pack(ones, dtype), "identity", None)
    np.testing.assert_allclose(y, [[k, -k], [-k, k]], rtol=1e-6)

    w, x = normal(1, 8, 40), normal(2, 9, 40)
    clean = _ext.linear(x, pack(w, dtype), "identity", None)
    x[1], x[2], x[3, 7], x[4, 0], x[5, -1] = 0, 1e-36, np.nan, np.inf, -np.inf
    y = _ext.linear(x, pack(w, dtype), "identity", None)
    assert (y[1] == 0).all()
    assert (abs(y[2]) <= 1e-30).all()
    assert np.isnan(y[3:6]).all()
    assert_same_bits(y[[0, 6, 7, 8]], clean[[0, 6, 7, 8]])
    w[5, 3] = np.nan
    y = _ext.linear(x[:1], pack(w, dtype), "identity", None)
    assert np.isnan(y[0, 5])
    assert_same_bits(np.delete(y, 5, 1), np.delete(clean[:1], 5, 1))


def test_too_many_inputs() -> None:
    with pytest.raises(Error, match="65536"):
        _ext.Weight(1, 65537, "int8", "panels")
