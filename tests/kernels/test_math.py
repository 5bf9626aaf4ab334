"""Elementwise functions and softmax against float64, on every instruction set of the machine."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from qkv import _ext

REFERENCE = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * special.ndtr(x),
    "gelu_tanh": lambda x: x * special.expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)),
    "silu": lambda x: x * special.expit(x),
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "erf": special.erf,
    "exp": np.exp,
}
MAX_ULP = {"relu": 0, "exp": 2, "tanh": 2, "erf": 2, "sigmoid": 3}
MAX_ERROR = {"gelu": 1e-7, "gelu_tanh": 1e-7, "silu": 1e-7}  # divided by max(1, |x|)
# where the algorithms switch, saturate, overflow or underflow
EDGES = (0.65, 0.95, 5.8, 9.011, 9.02, 10, 10.03, 10.118, 0.5 * np.log(2), 87.336, 87.68, 88, 88.376, 88.7228, 103)

TINY = np.finfo(np.float32).tiny
SMALLEST = np.finfo(np.float32).smallest_subnormal
LONG = 2 * 64 + 1  # longest row of the length sweeps: more than twice a weight panel


def floats(first: float, last: float, step: int) -> np.ndarray:
    """Each `step`-th float32 of [first, last), 0 <= first, and their negatives."""
    first_bits, last_bits = np.array([first, last], dtype=np.float32).view(np.uint32)
    positive = np.arange(first_bits, last_bits, step, dtype=np.uint32).view(np.float32)
    return np.concatenate([positive, -positive])


@pytest.fixture(scope="module")
def sweep() -> np.ndarray:
    """3 million float32: all magnitudes, more where the functions bend, every one close to an edge.

    The edges are also those of float32: the smallest and largest subnormals, the largest numbers.
    """
    close = [(bits + np.arange(-500, 500)).astype(np.uint32) for bits in np.float32(EDGES).view(np.uint32)]
    edges = np.concatenate(close).view(np.float32)
    limits = [
        floats(0, 1000 * SMALLEST, 1),
        floats(TINY - 500 * SMALLEST, 1.001 * TINY, 1),
        floats(3.402e38, np.finfo(np.float32).max, 1),
    ]
    parts = [floats(0, np.inf, 2999), floats(2.0**-12, 112.0, 199), edges, -edges, *limits]
    return np.concatenate(parts)


def ulps(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Distance in float32 spacings at `want`, a float64 array in float32's range."""
    return np.abs(got - want) / np.spacing(np.abs(want).astype(np.float32)).astype(np.float64)


def reference(function: str, x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        return REFERENCE[function](x.astype(np.float64))


@pytest.mark.parametrize("function", MAX_ULP)
def test_ulps(function: str, sweep: np.ndarray, isa: str) -> None:
    got, want = _ext.map(function, sweep), reference(function, sweep)
    with np.errstate(over="ignore"):
        rounded = want.astype(np.float32)
    np.testing.assert_array_equal(np.isinf(got), np.isinf(rounded))
    assert not np.isnan(got).any()
    # far from 0, exp and sigmoid may replace subnormal results by 0; results for subnormal arguments count always
    counts = (np.abs(want) >= (TINY if function in ("exp", "sigmoid") else 0)) & np.isfinite(rounded)
    error = ulps(got[counts], want[counts])
    worst = error.argmax()
    assert error[worst] <= MAX_ULP[function], f"at {sweep[counts][worst]!r}"
    assert np.abs(got[~counts & np.isfinite(rounded)]).max(initial=0) <= TINY


@pytest.mark.parametrize(
    ("value", "spacing"), [(1.5, 2.0**-23), (1e-3, 2.0**-33), (1.5 * 2.0**-126, 2.0**-149), (5 * 2.0**-149, 2.0**-149)]
)
def test_ulps_can_tell_2_from_2_01(value: float, spacing: float) -> None:
    for error in (1.99, 2.01):
        assert (ulps(np.array(value + error * spacing), np.array(value)) <= 2) == (error < 2)


@pytest.mark.parametrize("function", MAX_ERROR)
def test_absolute_error(function: str, sweep: np.ndarray, isa: str) -> None:
    x = sweep[np.abs(sweep) < 1e30]
    error = np.abs(_ext.map(function, x) - reference(function, x)) / np.maximum(1, np.abs(x))
    worst = error.argmax()
    assert error[worst] <= MAX_ERROR[function], f"at {x[worst]!r}"


@pytest.mark.parametrize("function", ["tanh", "erf"])
def test_odd(function: str, sweep: np.ndarray, isa: str) -> None:
    y = _ext.map(function, sweep)
    np.testing.assert_array_equal(_ext.map(function, -sweep), -y)
    assert np.abs(y).max() == 1
    np.testing.assert_array_equal(np.signbit(y), np.signbit(sweep))


@pytest.mark.parametrize(
    ("function", "x", "y"),
    [
        *[(function, np.nan, np.nan) for function in REFERENCE],
        *[("exp", x, y) for x, y in [(0, 1), (-0.0, 1), (-np.inf, 0), (-104, 0), (-3e38, 0), (88.73, np.inf)]],
        *[("exp", x, np.inf) for x in (100, 3e38, np.inf)],
        *[(function, x, x) for function in ("tanh", "erf") for x in (0.0, -0.0)],
        *[(function, sign * x, sign) for function in ("tanh", "erf") for x in (20, np.inf) for sign in (-1, 1)],
        *[("sigmoid", x, y) for x, y in [(0, 0.5), (-np.inf, 0), (-3e38, 0), (np.inf, 1), (3e38, 1)]],
        *[(f, x, max(x, 0)) for f in ("gelu", "gelu_tanh", "silu", "relu") for x in (0, 3e38, np.inf)],
        *[(f, x, 0) for f in ("gelu", "gelu_tanh", "silu", "relu") for x in (-3e38, -np.inf)],
    ],
)
def test_special_values(function: str, x: float, y: float, isa: str) -> None:
    want = np.full(19, y, dtype=np.float32)
    got = _ext.map(function, np.full(19, x, dtype=np.float32))
    np.testing.assert_array_equal(got, want)
    if function in ("tanh", "erf"):
        np.testing.assert_array_equal(np.signbit(got[~np.isnan(got)]), np.signbit(want[~np.isnan(want)]))


@pytest.mark.parametrize("function", ["identity", *REFERENCE])
def test_any_position_and_length(function: str, isa: str) -> None:
    x = 3 * np.random.default_rng(0).standard_normal(LONG + 64, dtype=np.float32)
    y = _ext.map(function, x)
    for n in range(LONG + 1):
        start = 7 * n % 64
        np.testing.assert_array_equal(_ext.map(function, x[start : start + n]), y[start : start + n])


def softmax(x: np.ndarray) -> np.ndarray:
    return special.softmax(x.astype(np.float64), axis=-1)


@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0, 100.0])
def test_softmax(scale: float, isa: str) -> None:
    rng = np.random.default_rng(0)
    for n in [*range(1, LONG + 1), 1000, 50257]:
        x = (scale * rng.standard_normal(n) - 50).astype(np.float32)
        want = softmax(x)
        assert np.abs(_ext.softmax(x) - want).max() <= 1e-7 * want.max(), n


def test_softmax_of_nothing(isa: str) -> None:
    assert _ext.softmax(np.zeros(0, dtype=np.float32)).shape == (0,)
    assert _ext.softmax(np.zeros((3, 0), dtype=np.float32)).shape == (3, 0)


def test_softmax_rows_are_independent(isa: str) -> None:
    x = np.random.default_rng(0).standard_normal((3, 5, 37), dtype=np.float32)
    y = _ext.softmax(x)
    for index in np.ndindex(3, 5):
        np.testing.assert_array_equal(_ext.softmax(x[index]), y[index])


@pytest.mark.parametrize("n", [1, 5, 64, 67])
def test_softmax_of_equals(n: int, isa: str) -> None:
    for value in (0.0, -3e38, 3e38):
        y = _ext.softmax(np.full(n, value, dtype=np.float32))
        np.testing.assert_array_equal(y, np.full(n, 1 / n, dtype=np.float32))


def test_softmax_of_masked(isa: str) -> None:
    x = np.random.default_rng(0).standard_normal(70, dtype=np.float32)
    some = x.copy()
    some[::3] = -np.inf
    y = _ext.softmax(some)
    assert (y[::3] == 0).all()
    want = softmax(some)
    assert np.abs(y - want).max() <= 1e-7 * want.max()
    for bad in (np.nan, np.inf):
        spoilt = x.copy()
        spoilt[41] = bad
        assert np.isnan(_ext.softmax(spoilt)).all()
    assert np.isnan(_ext.softmax(np.full(70, -np.inf, dtype=np.float32))).all()
