"""The weights of attention on every instruction set, against the same sums in float64."""

import numpy as np
import pytest
from tests.kernels.reference import assert_attended, assert_same_bits, attention_weights, normal, rotary

from qkv import _ext

BLOCK = 4 * _ext.page_tokens
KV_TYPES = ("float32", "bfloat16", "int8")


def case(tokens: int, keys: int, heads: int, kv_heads: int, head_dim: int, batch: int = 2):
    """q, k and v, tokens first."""
    return (
        normal(tokens, batch, tokens, heads, head_dim),
        normal(keys, batch, keys, kv_heads, head_dim),
        normal(keys + 1, batch, keys, kv_heads, head_dim),
    )


def weights_of(q, k, v, causal: bool, scale: float, table=None, threads: int = 1, **options) -> np.ndarray:
    """What the kernel writes into an array of NaN; the result of attention is the same with and without it."""
    weights = np.full((q.shape[0], q.shape[2], q.shape[1], k.shape[1]), np.nan, np.float32)
    y = _ext.attention(q, k, v, table, causal, scale, threads, weights=weights, **options)
    assert_same_bits(y, _ext.attention(q, k, v, table, causal, scale, threads, **options))
    return weights


def check(q, k, v, causal: bool, table=None, **options) -> None:
    scale = q.shape[-1] ** -0.5
    weights = weights_of(q, k, v, causal, scale, table, **options)
    expected, products = attention_weights(q, k, causal, scale, table, **options)
    # 2: the exponential's and the sum's own errors
    magnitude = (2 + products.swapaxes(1, 2)) * expected + 1e-30
    assert_attended(weights, expected, magnitude, options.get("kv_type", "float32"))
    assert (weights[expected == 0] == 0).all()  # of keys that are not seen, exactly


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (6, 2), (7, 1)])
def test_heads_of_every_kind(isa, heads, kv_heads, causal, kv_type):
    for head_dim in (1, 80):
        for tokens, keys in ((1, 1), (5, 65), (66, 66), (9, BLOCK), (3, 2 * BLOCK + 5)):
            check(*case(tokens, keys, heads, kv_heads, head_dim, batch=1), causal, kv_type=kv_type)


def test_every_number_of_keys(isa):
    for keys in range(1, 70):
        check(*case(min(keys, 4), keys, 2, 1, 24), causal=True)


@pytest.mark.parametrize("window", [1, 7, 65, 300])
def test_windows(isa, window):
    for kv_type in KV_TYPES:
        for causal in (False, True):
            check(*case(40, 2 * BLOCK + 30, 4, 2, 24, batch=1), causal, window=window, kv_type=kv_type)


@pytest.mark.parametrize("causal", [False, True])
def test_soft_cap_position_biases_and_rotary_positions(isa, causal):
    slopes = np.array([0.5, 0.25, 0.125, 1e-3], np.float32)
    for tokens, keys in ((1, 1), (20, 150), (3, BLOCK + 90)):
        sizes = case(tokens, keys, 4, 2, 24)
        check(*sizes, causal, soft_cap=2.0)
        check(*sizes, causal, slopes=slopes)
        check(*sizes, causal, slopes=slopes, rounded_alibi=True)
        check(*sizes, causal, relative_bias=2 * normal(9, 4, 19))
        check(*sizes, causal, table=rotary(np.arange(keys), 24))
        check(*sizes, causal, soft_cap=3.0, slopes=slopes, relative_bias=normal(8, 4, 21), window=50, kv_type="int8")


@pytest.mark.parametrize("size", [30, 1e3])
def test_large_scores(isa, size):
    q, k, v = case(9, 130, 2, 2, 24)
    check(q * np.float32(size), k, v, causal=True)


def test_more_queries_than_keys(isa):
    check(*case(70, 5, 2, 1, 24), causal=False)


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_threads_batch_and_the_way_a_prompt_is_cut_do_not_change_bits(isa, kv_type):
    q, k, v = case(70, 70, 6, 2, 40, batch=3)
    together = weights_of(q, k, v, True, 0.2, kv_type=kv_type)
    for threads in (2, 7):
        assert_same_bits(weights_of(q, k, v, True, 0.2, None, threads, kv_type=kv_type), together)
    assert_same_bits(weights_of(q[1:2], k[1:2], v[1:2], True, 0.2, kv_type=kv_type), together[1:2])
    for first, end in ((0, 1), (3, 50), (50, 70)):
        part = weights_of(q[:, first:end], k[:, :end], v[:, :end], True, 0.2, kv_type=kv_type)
        assert_same_bits(part, together[:, :, first:end, :end])


def test_nan_reaches_the_queries_that_see_it(isa):
    q, k, v = case(9, 70, 4, 2, 24)
    k[0, 65, 0, 3] = np.nan  # seen by queries 4 ... 8 of batch 0, whose heads 0 and 1 read head 0
    weights = weights_of(q, k, v, True, 0.2)
    spoilt = np.zeros((2, 4, 9), bool)
    spoilt[0, :2, 4:] = True
    assert (np.isnan(weights).any(axis=-1) == spoilt).all()


def test_sizes_that_do_not_fit_are_errors():
    q, k, v = case(3, 5, 4, 2, 8)
    for shape in ((2, 4, 3, 6), (2, 2, 3, 5), (4, 3, 5)):
        with pytest.raises(ValueError, match="attention: weights: unexpected shape"):
            _ext.attention(q, k, v, None, True, 1.0, weights=np.zeros(shape, np.float32))
    with pytest.raises(TypeError):
        _ext.attention(q, k, v, None, True, 1.0, weights=np.zeros((2, 4, 3, 5)))
