"""int8 and int4 linear layers on every instruction set: exact against integers, same bits in every tile."""

import numpy as np
import pytest
from tests.kernels.reference import ACTIVATIONS, assert_same_bits, bfloat16_bits, normal, pack, widen

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
    # Equal steps over the span of a group, not clipped, err by step^2 / 12 on average. The best of a few lines does
    # better, though its multiplier and offset must be integers.
    span = exact.max(axis=2) - exact.min(axis=2)
    assert ((groups - exact) ** 2).mean() <= 0.97 * ((span / 15) ** 2 / 12).mean()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ["identity", "gelu", "silu"])
@pytest.mark.parametrize(("k", "n"), [(33, 15), (100, 70), (64, 129)])
def test_epilogue(isa: str, dtype: str, gated: bool, activation: str, k: int, n: int) -> None:
    """Bias, activation, gate and residual behind exact sums, few rows and many."""
    x, residual = normal(1, 20, k), normal(2, 20, n)
    w, bias, gate = normal(3, n, k), normal(4, n), normal(5, n, k) if gated else None
    q, x_scales = quantised_rows(x)

    def product(matrix: np.ndarray) -> np.ndarray:
        values, scales = unpacked(dtype, matrix)
        return q @ values.T * x_scales.astype(float) * scales

    function, up = ACTIVATIONS[activation], product(w) + bias
    expected = residual + (function(product(gate)) * up if gated else function(up))
    weight = pack(w, dtype, bias, gate)
    for rows in (1, 6, 20):
        y = _ext.linear(x[:rows], weight, activation, residual[:rows])
        np.testing.assert_allclose(y, expected[:rows], rtol=2e-6, atol=2e-6 * abs(expected).max())


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize(("activation", "most"), [("gelu", 3.4e-6), ("gelu_tanh", 8.2e-6)])
def test_coarse_activations(isa: str, dtype: str, activation: str, most: float) -> None:
    """Behind quantised weights GELU may err by some 1e-6, everywhere; far out it is 0 or x, and NaN stays NaN."""
    x = np.concatenate([np.linspace(-12, 12, 100_001), [3e38, -3e38]]).astype(np.float32)[:, None]
    weight = pack(np.ones((1, 1), np.float32), dtype)
    sums, y = (_ext.linear(x, weight, function, None) for function in ("identity", activation))
    error = abs(y - ACTIVATIONS[activation](sums.astype(float))) - abs(sums) * 2.0**-23
    assert error.max() <= most
    assert y[-2] == sums[-2]
    assert abs(y[-1]) < 1e-20
    assert np.isnan(_ext.linear(np.full((1, 1), np.nan, np.float32), weight, activation, None)).all()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_sources(isa: str, dtype: str) -> None:
    """Any strides and stored types pack as contiguous float32 of the same values does; so do rows filled in pieces."""
    w, x = normal(1, 70, 100), normal(2, 7, 100)

    def product(rows: np.ndarray) -> np.ndarray:
        return _ext.linear(x, pack(rows, dtype), "identity", None)

    expected = product(w)
    wide = np.zeros((140, 303), np.float32)
    wide[::2, 3:][:, ::3] = w
    off = np.frombuffer(b"?" + w.tobytes(), np.float32, offset=1).reshape(w.shape)
    assert not off.flags.aligned
    for same in (np.asfortranarray(w), wide[::2, 3:][:, ::3], w[::-1, ::-1].copy()[::-1, ::-1], off):
        assert_same_bits(product(same), expected)
    half = w.astype(np.float16)
    assert_same_bits(product(half), product(half.astype(np.float32)))
    assert_same_bits(product(np.asfortranarray(half)), product(half.astype(np.float32)))
    bits = bfloat16_bits(w)
    assert_same_bits(product(bits), product(widen(bits)))
    pieces = _ext.Weight(70, 100, dtype, "panels")
    for at in (0, 1, 33):
        pieces.fill(w[at : {0: 1, 1: 33, 33: 70}[at]], at, 0, 2)
    assert_same_bits(_ext.linear(x, pieces, "identity", None), expected)


@pytest.mark.parametrize("width", [1, 3, 4, 40, 77, 131])
@pytest.mark.parametrize("layout", ["rows", "panels"])
def test_embedding_rows(isa: str, layout: str, width: int) -> None:
    """An int8 table, and one tied to the output layer and so in panels: rows are scale * nearest integer, exactly."""
    w = normal(width, 90, width)
    table = _ext.Weight(90, width, "int8", layout)
    table.fill(w, 0, 0, 1)
    program = _ext.Program()
    out = program.buffer(width, "tokens")
    program.embed(out, table, 1.0, None, 0, None)
    program.output("rows", out)
    ids = np.arange(90, dtype=np.int32)[::-1].copy()
    nothing = np.empty(0, np.int32)
    batch = _ext.Batch(
        token_ids=ids, cu_seqlens=np.array([0, 90]), type_ids=nothing, wanted=np.empty(0, np.int64),
        past=np.empty(0, np.int64), cache=None, pages=[],
    )  # fmt: skip
    largest = abs(w).max(axis=1, keepdims=True)
    expected = np.rint(w * (np.float32(127) / largest)) * (largest / np.float32(127)) + 0  # no -0
    assert_same_bits(program.run(["rows"], batch, 1)[0], expected[::-1])


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
