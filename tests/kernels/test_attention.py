"""The attention kernel on every instruction set, against the same sums in float64 and against itself."""

import numpy as np
import pytest
from tests.kernels.reference import (
    alibi_terms,
    assert_attended,
    assert_close,
    assert_same_bits,
    attention,
    normal,
    rotary,
)

from qkv import _ext

PAGE = _ext.page_tokens
KV_TYPES = ("float32", "bfloat16", "int8")
BLOCK = 4 * PAGE  # keys whose weights and values are summed up together


def case(tokens: int, keys: int, heads: int, kv_heads: int, head_dim: int, batch: int = 2):
    """q, k and v, tokens first."""
    return (
        normal(tokens, batch, tokens, heads, head_dim),
        normal(keys, batch, keys, kv_heads, head_dim),
        normal(keys + 1, batch, keys, kv_heads, head_dim),
    )


def check(q, k, v, causal: bool, table=None, **options):
    scale = q.shape[-1] ** -0.5
    y = _ext.attention(q, k, v, table, causal, scale, **options)
    assert_attended(y, *attention(q, k, v, causal, scale, table, **options), options.get("kv_type", "float32"))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_dim", [1, 3, 8, 24, 40, 64, 72, 80, 96, 112, 128, 256])
@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (6, 2), (7, 1)])
def test_heads_of_every_kind(isa, causal, head_dim, heads, kv_heads):
    for keys in (1, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE + 2):
        for tokens in {1, min(keys, 5), keys}:
            check(*case(tokens, keys, heads, kv_heads, head_dim, batch=1), causal)


@pytest.mark.parametrize("causal", [False, True])
def test_every_number_of_keys(isa, causal):
    for keys in range(1, 2 * PAGE + 3):
        check(*case(min(keys, 4), keys, 2, 1, 24), causal)


@pytest.mark.parametrize("causal", [False, True])
def test_every_number_of_tokens(isa, causal):
    for tokens in [*range(14), 47, 48, 49]:
        check(*case(tokens, 70, 2, 2, 24), causal)


def test_more_queries_than_keys(isa):
    check(*case(70, 5, 2, 1, 24), causal=False)


@pytest.mark.parametrize("head_dim", [2, 24, 64, 80])
def test_rotary_embedding(isa, head_dim):
    for rotary_dim in {2, head_dim // 4 * 2, head_dim} - {0}:
        for tokens, keys in ((1, 1), (5, 66), (67, 67)):
            q, k, v = case(tokens, keys, 6, 2, head_dim)
            table = rotary(np.arange(keys), rotary_dim)
            check(q, k, v, causal=True, table=table)
            turn = [  # kernels that turn on their own, with the positions next to the features
                np.ascontiguousarray(
                    _ext.rope(x.swapaxes(1, 2).reshape(-1, n, head_dim), rows).reshape(2, -1, n, head_dim)
                )
                for x, n, rows in ((q, tokens, table[keys - tokens :]), (k, keys, table))
            ]
            q_turned, k_turned = (x.swapaxes(1, 2) for x in turn)
            assert_same_bits(
                _ext.attention(q, k, v, table, True, 0.125),
                _ext.attention(q_turned, k_turned, v, None, True, 0.125),
            )


@pytest.mark.parametrize("size", [1e-3, 30, 1e3])
def test_scores_of_every_size(isa, size):
    """Large scores need the running maximum; the largest of them take all."""
    q, k, v = case(9, 130, 2, 2, 24)
    q = q * np.float32(size)
    check(q, k, v, causal=False)
    ascending = k[:, np.argsort(k[0, :, 0, 0])]  # the maximum keeps growing
    check(q, ascending, v, causal=True)


def test_equal_scores_give_the_mean(isa):
    for keys in (1, 2, 64, 65, 128):
        v = normal(1, 1, keys, 1, 16)
        y = _ext.attention(np.zeros((1, 1, 1, 16), np.float32), normal(2, 1, keys, 1, 16), v, None, False, 1.0)
        np.testing.assert_allclose(y[0, 0, 0], v[0, :, 0].mean(axis=0, dtype=float), atol=3e-7)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (6, 2), (7, 1)])
@pytest.mark.parametrize("rotated", [False, True])
def test_a_token_does_not_depend_on_what_follows_or_on_how_a_prompt_is_cut(isa, heads, kv_heads, rotated):
    q, k, v = case(131, 131, heads, kv_heads, 40, batch=1)
    table = rotary(np.arange(131), 40) if rotated else None
    together = _ext.attention(q, k, v, table, True, 0.25)
    for first, end in [(t, t + 1) for t in range(131)] + [(0, 50), (50, 120), (120, 131)]:
        part = _ext.attention(q[:, first:end], k[:, :end], v[:, :end], table[:end] if rotated else None, True, 0.25)
        assert_same_bits(part, together[:, first:end])


@pytest.mark.parametrize("causal", [False, True])
def test_batch_heads_and_threads_do_not_change_bits(isa, causal):
    q, k, v = case(70, 70, 6, 2, 40, batch=3)
    together = _ext.attention(q, k, v, None, causal, 0.2)
    for threads in (2, 3, 7):  # 7 exceeds the 6 key/value heads: queries are cut too
        assert_same_bits(_ext.attention(q, k, v, None, causal, 0.2, threads), together)
    for b in range(3):
        one = slice(b, b + 1)
        assert_same_bits(_ext.attention(q[one], k[one], v[one], None, causal, 0.2, 3), together[one])
    for head in range(6):
        kv = slice(head // 3, head // 3 + 1)
        alone = _ext.attention(q[:, :, head : head + 1], k[:, :, kv], v[:, :, kv], None, causal, 0.2)
        assert_same_bits(alone, together[:, :, head : head + 1])


@pytest.mark.parametrize("kv_type", ["bfloat16", "int8"])
@pytest.mark.parametrize("head_dim", [1, 3, 24, 64, 80, 128])
def test_narrow_keys_and_values(isa, kv_type, head_dim):
    """Keys and values are rounded; where bfloat16 pairs are multiplied, queries and weights are, too."""
    for causal in (False, True):
        for tokens, keys in ((1, 1), (1, 63), (7, 7), (5, 130), (67, 67), (3, 2 * BLOCK + 5)):
            check(*case(tokens, keys, 4, 2, head_dim, batch=1), causal, kv_type=kv_type)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_dim", [1, 3, 24, 64, 80, 128])
def test_bfloat16_where_nothing_is_rounded(isa, head_dim, causal):
    """Scores are whole numbers and weights powers of two, which bfloat16 holds: the tolerance is float32's."""
    scale = np.log(2)  # which the kernel multiplies by log2(e), to take powers of two
    for tokens, keys in ((1, 1), (1, 63), (5, 64), (7, 7), (5, 130), (67, 67), (3, 2 * BLOCK + 5)):
        q, k, v = (np.round(x).clip(-1, 1) for x in case(tokens, keys, 4, 2, head_dim, batch=1))
        for window in (0, 1, 2, 7, 64, 65, 300):
            options = {"kv_type": "bfloat16", "window": window}
            y = _ext.attention(q, k, v, None, causal, scale, **options)
            assert_close(y, *attention(q, k, v, causal, scale, **options))


def test_int8_of_nothing_and_of_little(isa):
    q, k, v = case(2, 20, 2, 2, 24)
    k[:, 3], v[:, 4], v[:, 5] = 0, 0, v[:, 5] * np.float32(1e-30)
    check(q, k, v, causal=True, kv_type="int8")


@pytest.mark.parametrize("keys", [BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 70])
def test_several_blocks_of_keys(isa, keys):
    q, k, v = case(9, keys, 4, 2, 40, batch=1)
    order = np.argsort(k[0, :, 0, 0])
    for kv_type in KV_TYPES:
        check(q, k, v, causal=True, kv_type=kv_type)
        check(q, k[:, order], v, causal=False, kv_type=kv_type)  # the maximum keeps growing
        check(q, k[:, order[::-1]], v, causal=False, kv_type=kv_type)  # or never does


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [1, 2, 7, 64, 65, 200, 300, 1000])
def test_windows(isa, causal, window):
    for kv_type in KV_TYPES:
        check(*case(40, 2 * BLOCK + 30, 4, 2, 24, batch=1), causal, window=window, kv_type=kv_type)
        check(*case(5, 70, 2, 2, 24), causal, window=window, kv_type=kv_type)


@pytest.mark.parametrize("causal", [False, True])
def test_soft_cap_and_position_biases(isa, causal):
    slopes = np.array([0.5, 0.25, 0.125, 1e-3], np.float32)
    for tokens, keys in ((1, 1), (5, 5), (20, 150), (3, BLOCK + 90)):
        sizes = case(tokens, keys, 4, 2, 24)
        check(*sizes, causal, soft_cap=2.0)
        check(*sizes, causal, slopes=slopes)
        for n in (0, 1, 9, 40, 200):
            check(*sizes, causal, relative_bias=2 * normal(n, 4, 2 * n + 1))
        check(*sizes, causal, soft_cap=3.0, slopes=slopes, relative_bias=normal(8, 4, 21), window=50, kv_type="int8")


@pytest.mark.parametrize("causal", [False, True])
def test_rounded_alibi(isa, causal):
    """Beyond position 256 positions are rounded, too."""
    slopes = np.float32([0.84, 0.7071, 0.0371, 1e-3])
    for tokens, keys in ((1, 1), (5, 5), (20, 150), (3, BLOCK + 90), (40, 2 * BLOCK + 71), (5, 5 * BLOCK)):
        sizes = case(tokens, keys, 4, 2, 24, batch=1)
        for kv_type in KV_TYPES:
            check(*sizes, causal, slopes=slopes, rounded_alibi=True, kv_type=kv_type)
        check(*sizes, causal, slopes=slopes, rounded_alibi=True, soft_cap=3.0, window=50)


def test_rounded_alibi_is_that_of_transformers(isa):
    modeling_falcon = pytest.importorskip("transformers.models.falcon.modeling_falcon")
    torch = pytest.importorskip("torch")
    heads, keys = 12, 3 * BLOCK
    alibi = modeling_falcon.build_alibi_tensor(torch.ones(1, keys, dtype=torch.long), heads, torch.float32)
    slopes = np.float32([*(2.0 ** -np.arange(1, 9)), *(2.0 ** -np.arange(0.5, 4))])
    np.testing.assert_array_equal(alibi_terms(slopes, keys), alibi[:, 0].numpy())
    q, k, v = case(30, keys, heads, heads, 6, batch=1)
    mask = alibi * 6**-0.5 + torch.full((30, keys), -torch.inf).triu(keys - 29)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(torch.from_numpy(x).double().transpose(1, 2) for x in (q, k, v)), attn_mask=mask.double()[None]
    )
    y = _ext.attention(q, k, v, None, True, 6**-0.5, slopes=slopes, rounded_alibi=True)
    np.testing.assert_allclose(y, expected.transpose(1, 2).numpy(), atol=2e-5)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": 70},
        {"slopes": np.float32([0.1, 0.3]), "soft_cap": 5.0},
        {"slopes": np.float32([0.1, 0.3]), "rounded_alibi": True},
    ],
)
def test_bits_do_not_depend_on_the_way_keys_are_cut(isa, kv_type, options):
    """One key/value head for many threads: blocks of keys become tasks of their own, to be merged."""
    q, k, v = case(3 * BLOCK + 20, 3 * BLOCK + 20, 2, 1, 40, batch=1)
    options = options | {"kv_type": kv_type}
    together = _ext.attention(q, k, v, None, True, 0.25, **options)
    for tokens in (1, 2, 3, 5, 20):
        for threads in (1, 2, 3, 16):
            part = _ext.attention(q[:, -tokens:], k, v, None, True, 0.25, threads, **options)
            assert_same_bits(part, together[:, -tokens:])
    for first, end in ((0, 1), (62, 67), (250, 300)):
        part = _ext.attention(q[:, first:end], k[:, :end], v[:, :end], None, True, 0.25, 2, **options)
        assert_same_bits(part, together[:, first:end])


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_nan_reaches_the_queries_that_see_it(isa, kv_type):
    q, k, v = case(9, 70, 4, 2, 24)
    k[0, 65, 0, 3] = np.nan  # position 65: seen by queries 4 ... 8 of batch 0, whose heads 0 and 1 read head 0
    y = _ext.attention(q, k, v, None, True, 0.2, kv_type=kv_type)
    seen = np.zeros((2, 9, 4), bool)
    seen[0, 4:, :2] = True
    assert (np.isnan(y) == seen[..., None]).all()
    k[0, 65, 0, 3], v[0, 61, 1, 3] = 0, np.nan  # a value's NaN stays in its feature; in int8 its scale is NaN
    y = _ext.attention(q, k, v, None, True, 0.2, kv_type=kv_type)
    features = 24 if kv_type == "int8" else 1
    assert (np.isnan(y).sum(), np.isnan(y[0, :, 2:, 3]).all()) == (18 * features, True)


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("position", [3, 40, 41, 63, 64, 300])
def test_nan_outside_the_window_is_not_seen(isa, kv_type, position):
    q, k, v = case(350, 350, 2, 1, 24, batch=1)
    for nan in (k, v):
        before = nan[0, position].copy()
        nan[0, position] = np.nan
        y = _ext.attention(q, k, v, None, True, 0.2, window=6, kv_type=kv_type)
        nan[0, position] = before
        seen = np.flatnonzero(np.isnan(y).any(axis=(0, 2, 3)))
        assert seen.tolist() == list(range(position, position + 6))


def test_sizes_that_do_not_fit_are_errors():
    q, k, v = case(3, 5, 4, 2, 8)
    table = rotary(np.arange(5), 8)
    for args in (
        (q[0], k, v, None, False),
        (q, k[:, :, :1], v, None, False),
        (q, k, v[:, :4], None, False),
        (q[..., :7], k, v, None, False),
        (q[:1], k, v, None, False),
        (q[:, :, :3], k, v, None, False),
        (q, k[:, :, :0], v[:, :, :0], None, False),
        (q, k[:, :2], v[:, :2], None, True),
        (q, k, v, table[:4], True),
        (q, k, v, rotary(np.arange(5), 10), True),
        (q, k, v, table[:, :3], True),
    ):
        with pytest.raises(ValueError, match="attention"):
            _ext.attention(*args, 1.0)
    for options in (
        {"window": -1},
        {"soft_cap": -1.0},
        {"slopes": np.zeros(3, np.float32)},
        {"rounded_alibi": True},
        {"relative_bias": np.zeros((3, 3), np.float32)},
        {"relative_bias": np.zeros((4, 2), np.float32)},
    ):
        with pytest.raises(ValueError, match="attention"):
            _ext.attention(q, k, v, None, True, 1.0, **options)
    with pytest.raises(ValueError, match="not 'int4'"):
        _ext.attention(q, k, v, None, True, 1.0, kv_type="int4")
