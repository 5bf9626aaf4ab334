"""The linear kernel on every instruction set: each tile shape, tail, epilogue, weight type and source."""

import numpy as np
import pytest
from tests.kernels.reference import (
    ACTIVATIONS,
    assert_close,
    assert_same_bits,
    bfloat16_bits,
    normal,
    pack,
    widen,
)

from qkv import _ext

DTYPES = ("float32", "bfloat16")


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    """What `dtype` can hold, so that its products are exact and float32's bars apply."""
    return widen(bfloat16_bits(x)) if dtype == "bfloat16" else x


def expected(x, w, bias=None, activation="identity", gate=None, residual=None):
    """float64 result and magnitude of f(x wᵀ + bias) + residual, or f(x gateᵀ) * (x wᵀ + bias) + residual."""
    x, w = x.astype(float), w.astype(float)
    bias = np.zeros(len(w)) if bias is None else bias
    y, magnitude = x @ w.T + bias, abs(x) @ abs(w.T) + abs(bias)
    f = ACTIVATIONS[activation]
    if gate is not None:
        z = x @ gate.T.astype(float)
        magnitude = 1.2 * (abs(x) @ abs(gate.T)) * abs(y) + abs(f(z)) * magnitude
        y = f(z) * y
    else:
        y, magnitude = f(y), 1.2 * magnitude  # no activation is steeper
    return (y, magnitude) if residual is None else (y + residual, magnitude + abs(residual))


def check(rows: int, k: int, n: int, dtype: str, *, activation="identity", bias=False, gated=False, residual=False):
    x, w = rounded(normal(k, rows, k), dtype), rounded(normal(n, n, k), dtype)
    b = normal(1, n) if bias else None
    gate = rounded(normal(2, n, k), dtype) if gated else None
    r = normal(3, rows, n) if residual else None
    y = _ext.linear(x, pack(w, dtype, b, gate), activation, r, 1)
    assert_close(y, *expected(x, w, b, activation, gate, r))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_outputs(isa, dtype):
    for n in range(1, 2 * _ext.chosen_isa()["panel"] + 2):
        check(7, 19, n, dtype, bias=True, residual=n % 2 == 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_gated_outputs(isa, dtype):
    for n in range(1, _ext.chosen_isa()["panel"] + 2):  # a panel makes half as many
        check(5, 18, n, dtype, bias=True, gated=True, activation="silu", residual=n % 2 == 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_inputs(isa, dtype):
    for k in [*range(1, 2 * _ext.chosen_isa()["panel"] + 2), 767, 768, 3072]:
        check(3, k, _ext.chosen_isa()["panel"] + 3, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_rows(isa, dtype):
    for rows in [*range(14), 96, 191, 192, 200]:
        check(rows, 33, 70, dtype, bias=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_epilogues(isa, dtype, activation, gated, residual):
    for bias in (False, True):
        check(7, 33, 70, dtype, activation=activation, bias=bias, gated=gated, residual=residual)


def test_bfloat16_weights_round_activations_where_the_instruction_wants_them_rounded(isa):
    for k in (1, 2, 17, 64, 65):
        x, w = normal(1, 5, k), rounded(normal(2, 40, k), "bfloat16")
        y = _ext.linear(x, pack(w, "bfloat16"), "identity", None, 1)
        multiplied = rounded(x, "bfloat16") if _ext.chosen_isa()["bf16_dot"] else x
        assert_close(y, *expected(multiplied, w))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("source", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("view", ["plain", "transposed", "every other", "reversed"])
def test_sources(isa, dtype, source, view):
    values = normal(4, 70, 33)
    held = {
        "float32": values,
        "float16": values.astype(np.float16),
        "bfloat16": bfloat16_bits(values),
    }[source]
    strided = {
        "plain": held,
        "transposed": np.asfortranarray(held),
        "every other": np.repeat(np.repeat(held, 2, axis=0), 3, axis=1)[::2, ::3],
        "reversed": np.ascontiguousarray(held[::-1, ::-1])[::-1, ::-1],
    }[view]
    number = widen(held) if source == "bfloat16" else held.astype(np.float32)
    x, plain = normal(5, 4, 33), pack(rounded(number, dtype), dtype)
    assert_same_bits(
        _ext.linear(x, pack(strided, dtype), "identity", None, 1), _ext.linear(x, plain, "identity", None, 1)
    )


def test_float16_sources_keep_subnormals_infinities_and_nan(isa):
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)[:, None]
    y = _ext.linear(np.ones((1, 1), np.float32), pack(every), "identity", None, 1)
    with np.errstate(invalid="ignore"):  # some machines report that signalling NaNs become quiet
        expected = every[:, 0].astype(np.float32)
    np.testing.assert_array_equal(y[0], expected)


def test_weights_filled_in_parts_equal_weights_filled_at_once(isa):
    w, x, b = normal(6, 70, 33), normal(7, 4, 33), normal(8, 70)
    parts = _ext.Weight(70, 33, "float32", "panels")
    for start, end in ((0, 1), (1, 40), (40, 70)):
        parts.fill(w[start:end], start, 0, 1)
        parts.fill_bias(b[start:end], start, 0)
    assert_same_bits(_ext.linear(x, parts, "identity", None, 1), _ext.linear(x, pack(w, bias=b), "identity", None, 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gated", [False, True])
def test_a_row_does_not_depend_on_its_neighbours(isa, dtype, gated):
    x, w, residual = normal(1, 203, 77), normal(2, 150, 77), normal(3, 203, 150)
    packed = pack(w, dtype, normal(4, 150), normal(5, 150, 77) if gated else None)
    together = _ext.linear(x, packed, "gelu", residual, 1)
    alone = [_ext.linear(x[i : i + 1], packed, "gelu", residual[i : i + 1], 1) for i in range(len(x))]
    assert_same_bits(together, np.concatenate(alone))
    for rows in range(2, 14):
        assert_same_bits(_ext.linear(x[:rows], packed, "gelu", residual[:rows], 1), together[:rows])


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_bits(isa, dtype):
    x, w = normal(1, 300, 64), normal(2, 200, 64)
    packed = pack(w, dtype)
    one = _ext.linear(x, packed, "silu", None, 1)
    for threads in (2, 3):
        several = _ext.Weight(200, 64, dtype, "panels")
        several.fill(w, 0, 0, threads)
        assert_same_bits(_ext.linear(x, several, "silu", None, threads), one)
        assert_same_bits(_ext.linear(x[:1], several, "silu", None, threads), one[:1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_reaches_what_depends_on_it_and_nothing_else(isa, dtype, activation):
    x, w = normal(1, 9, 33), normal(2, 70, 33)
    x[4, 32] = np.nan
    y = _ext.linear(x, pack(w, dtype), activation, None, 1)
    assert (np.isnan(y).all(axis=1) == (np.arange(9) == 4)).all()
    assert np.isnan(y).sum() == 70
    x[4, 32], w[69, 0] = 0, np.nan
    y = _ext.linear(x, pack(w, dtype), activation, None, 1)
    assert (np.isnan(y) == (np.arange(70) == 69)).all()


def test_sizes_that_do_not_fit_are_errors():
    x, packed = normal(1, 2, 8), pack(normal(2, 4, 8))
    for call in (
        lambda: _ext.linear(x[:, :7], packed, "identity", None, 1),
        lambda: _ext.linear(x[0], packed, "identity", None, 1),
        lambda: _ext.linear(x, packed, "softplus", None, 1),
        lambda: _ext.linear(x, packed, "identity", normal(3, 2, 5), 1),
        lambda: _ext.linear(x, _ext.Weight(4, 8, "float32", "rows"), "identity", None, 1),
        lambda: packed.fill(normal(3, 4, 9), 0, 0, 1),
        lambda: packed.fill(normal(3, 4, 8), 1, 0, 1),
        lambda: packed.fill(normal(3, 4, 8), 0, 1, 1),
        lambda: packed.fill(normal(3, 4, 8), -1, 0, 1),
        lambda: packed.fill(normal(3, 4, 8).astype(float), 0, 0, 1),
        lambda: packed.fill_bias(normal(3, 5), 0, 0),
        lambda: _ext.Weight(0, 8, "float32", "panels"),
        lambda: _ext.Weight(3, 8, "float32", "gated"),
    ):
        with pytest.raises(ValueError, match=r"linear|weight|function"):
            call()
