"""qkv.ops against PyTorch in float64, with every shape, and what it says about arrays that do not fit."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional

from qkv import _ext, ops
from qkv.errors import Error
from tests.kernels.reference import assert_same_bits, normal


def double(x: np.ndarray | None) -> torch.Tensor | None:
    return None if x is None else torch.from_numpy(x.astype(float))


def assert_close(y: np.ndarray, expected: torch.Tensor, atol: float = 2e-6) -> None:
    assert y.dtype == np.float32
    assert y.shape == tuple(expected.shape)
    np.testing.assert_allclose(y, expected.numpy(), rtol=1e-6, atol=atol)


BATCHES = [(), (1,), (5,), (2, 3), (2, 1, 3), (0,), (2, 0)]
ACTIVATIONS = {
    None: lambda x: x,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
}


@pytest.mark.parametrize("batch", BATCHES)
def test_elementwise(isa, batch):
    x = 3 * normal(1, *batch, 33)
    assert_close(ops.gelu(x), functional.gelu(double(x)))
    assert_close(ops.gelu(x, approximate="tanh"), functional.gelu(double(x), approximate="tanh"))
    assert_close(ops.silu(x), functional.silu(double(x)))
    assert_close(ops.relu(x), functional.relu(double(x)))


@pytest.mark.parametrize("batch", BATCHES)
def test_norms(isa, batch):
    x, weight, bias = normal(1, *batch, 33), normal(2, 33), normal(3, 33)
    for b in (None, bias):
        expected = functional.layer_norm(double(x), (33,), double(weight), double(b), 1e-5)
        assert_close(ops.layer_norm(x, weight, b), expected)
    assert_close(ops.rms_norm(x, weight), functional.rms_norm(double(x), (33,), double(weight), 1e-6))
    assert_close(ops.rms_norm(x, weight, eps=0.5), functional.rms_norm(double(x), (33,), double(weight), 0.5))


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (0, 7), (3, 0), (2, 1, 1)])
def test_softmax_along_every_axis(isa, shape):
    x = 5 * normal(1, *shape)
    for axis in range(-len(shape), len(shape)):
        assert_close(ops.softmax(x, axis), torch.softmax(double(x), axis))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_linear(isa, batch, activation):
    x, weight = normal(1, *batch, 33), normal(2, 70, 33) / 6
    for bias in (None, normal(3, 70)):
        expected = ACTIVATIONS[activation](functional.linear(double(x), double(weight), double(bias)))
        assert_close(ops.linear(x, weight, bias, activation), expected)


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("gated", [False, True])
def test_ffn(isa, activation, gated):
    x, w1, w2, gate = normal(1, 2, 5, 24), normal(2, 70, 24) / 5, normal(3, 24, 70) / 8, normal(4, 70, 24) / 5
    for b1, b2 in ((None, None), (normal(5, 70), normal(6, 24))):
        up = functional.linear(double(x), double(w1), double(b1))
        f = ACTIVATIONS[activation]
        hidden = f(double(x) @ double(gate).T) * up if gated else f(up)
        y = ops.ffn(x, w1, b1, w2, b2, activation, gate if gated else None)
        assert_close(y, functional.linear(hidden, double(w2), double(b2)))


@pytest.mark.parametrize("batch", [(), (3,), (2, 1), (0,)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (4, 1)])
@pytest.mark.parametrize("tokens", [1, 7, 70])
def test_attention(isa, batch, heads, kv_heads, tokens):
    q, k, v = (
        normal(1, *batch, heads, tokens, 24),
        normal(2, *batch, kv_heads, 70, 24),
        normal(3, *batch, kv_heads, 70, 24),
    )
    many = [double(np.repeat(x, heads // kv_heads, axis=-3)) for x in (k, v)]
    mask = torch.ones(tokens, 70, dtype=torch.bool).tril(70 - tokens)
    attend = functional.scaled_dot_product_attention
    assert_close(ops.attention(q, k, v), attend(double(q), *many))
    assert_close(ops.attention(q, k, v, causal=True), attend(double(q), *many, attn_mask=mask))
    # scores of up to 20 here: their rounding shows in the weights
    assert_close(ops.attention(q, k, v, scale=0.7), attend(double(q), *many, scale=0.7), atol=1e-5)


def test_attention_with_a_window_a_cap_and_biases(isa):
    heads, keys, n = 4, 70, 9
    q, k, v = normal(1, 2, heads, 5, 24), normal(2, 2, 2, keys, 24), normal(3, 2, 2, keys, 24)
    slopes, bias = np.float32([0.5, 0.25, 0.125, 0.0625]), normal(4, heads, 2 * n + 1)
    distance = torch.arange(keys) - torch.arange(keys - 5, keys)[:, None]
    scores = double(q) @ double(np.repeat(k, 2, axis=1)).mT * 24**-0.5
    options = [
        ({"window": 20}, torch.where(distance.abs() < 20, scores, -torch.inf)),
        ({"soft_cap": 1.5}, 1.5 * torch.tanh(scores / 1.5)),
        ({"alibi_slopes": slopes}, scores - double(slopes)[:, None, None] * distance.abs()),
        ({"relative_bias": bias}, scores + double(bias)[:, distance.clamp(-n, n) + n]),
    ]
    for causal in (False, True):
        for arguments, expected in options:
            seen = torch.where(distance > 0, -torch.inf, expected) if causal else expected
            y = seen.softmax(dim=-1) @ double(np.repeat(v, 2, axis=1))
            assert_close(ops.attention(q, k, v, causal=causal, **arguments), y)


def test_attention_to_nothing():
    for heads, tokens, keys, dim in ((2, 3, 0, 4), (2, 0, 3, 4), (0, 3, 3, 4), (2, 3, 3, 0)):
        y = ops.attention(normal(1, heads, tokens, dim), normal(2, heads, keys, dim), normal(3, heads, keys, dim))
        assert_same_bits(y, np.zeros((heads, tokens, dim), np.float32))


def test_linear_without_inputs_or_outputs():
    bias = normal(1, 4)
    np.testing.assert_array_equal(ops.linear(normal(2, 3, 0), normal(3, 4, 0), bias, "relu"), [bias.clip(0)] * 3)
    assert ops.linear(normal(2, 3, 5), normal(3, 0, 5)).shape == (3, 0)
    y = ops.ffn(normal(1, 3, 0), normal(2, 4, 0), bias, normal(3, 2, 4), None, "silu", gate=normal(4, 4, 0))
    np.testing.assert_array_equal(y, np.zeros((3, 2)))


@pytest.mark.parametrize("batch", [(), (3,), (2, 0), (2, 3)])
@pytest.mark.parametrize("rotary_dim", [None, 0, 2, 16])
@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_rope_turns_pairs_by_their_angle(batch, rotary_dim, layout):
    x, positions, theta = normal(1, *batch, 5, 24), np.array([0, 1, 2, 1000, 100000]), 500.0
    y = ops.rope(x, positions, theta, rotary_dim, layout)
    expected = expected_rope(x, positions, theta, 24 if rotary_dim is None else rotary_dim, layout)
    assert_close(y, torch.from_numpy(expected), atol=5e-7)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
def test_rope_of_every_width(isa, layout):
    """Normalised error, and no feature left out or written beyond, where pairs fill no whole vector."""
    for dim in range(0, 4 * _ext.chosen_isa()["lanes"] + 6, 2):
        x, positions = normal(dim, 3, 7, dim + 3), np.arange(7) + 50
        y, expected = ops.rope(x, positions, 1e4, dim, layout), expected_rope(x, positions, 1e4, dim, layout)
        assert np.linalg.norm(y - expected) <= 1e-7 * np.linalg.norm(expected)
        assert_same_bits(y[..., dim:], x[..., dim:])
        assert_same_bits(ops.rope(x[1, 4:5], positions[4:5], 1e4, dim, layout), y[1, 4:5])


def expected_rope(x, positions, theta, dim, layout):
    half = dim // 2
    first, second = (slice(half), slice(half, dim)) if layout == "half" else (slice(0, dim, 2), slice(1, dim, 2))
    angles = positions[:, None] * theta ** (-2 * np.arange(half) / max(1, dim))
    turned = (x[..., first] + 1j * x[..., second]).astype(complex) * np.exp(1j * angles)
    y = x.astype(float)
    y[..., first], y[..., second] = turned.real, turned.imag
    return y


def test_rope_defaults():
    x = normal(1, 2, 7, 8)
    assert_same_bits(ops.rope(x), ops.rope(x, np.arange(7), 10000.0, 8))
    assert_same_bits(ops.rope(x)[:, 0], x[:, 0])
    assert_same_bits(ops.rope(x[:, 3:], positions=range(3, 7)), ops.rope(x)[:, 3:])
    halves = [ops.rope(x, np.arange(7) + shift) for shift in (0.0, 0.5)]  # positions need not be whole
    assert not np.array_equal(*halves)


@pytest.mark.parametrize("dim", [0, 1, 2, 7, 64])
def test_sinusoidal_positions(dim):
    table = ops.sinusoidal_positions(50, dim)
    assert (table.shape, table.dtype) == ((50, dim), np.float32)
    for i in range(dim):
        angle = np.arange(50) / 10000 ** (i // 2 * 2 / dim)
        np.testing.assert_allclose(table[:, i], np.cos(angle) if i % 2 else np.sin(angle), atol=1e-7)


def views(x: np.ndarray) -> list[np.ndarray]:
    """The same numbers in other places: reordered, strided, reversed, read-only, and not aligned."""
    packed = np.zeros(x.shape, np.dtype([("pad", np.uint8), ("x", np.float32)]))
    packed["x"] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    backwards = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    return [np.asfortranarray(x), np.repeat(x, 2, axis=-1)[..., ::2], backwards, frozen, packed["x"]]


def test_views_give_the_same_bits_as_their_copies():
    x, w, b = normal(1, 3, 9, 24), normal(2, 40, 24), normal(3, 40)
    heads = normal(4, 6, 24)
    for xs, ws, bs, heads_view in zip(views(x), views(w), views(b), views(heads), strict=True):
        assert_same_bits(ops.linear(xs, ws, bs), ops.linear(x, w, b))
        assert_same_bits(ops.layer_norm(xs, heads_view[0], heads_view[1]), ops.layer_norm(x, heads[0], heads[1]))
        assert_same_bits(ops.attention(xs, xs, xs), ops.attention(x, x, x))
        assert_same_bits(ops.softmax(xs), ops.softmax(x))
        assert_same_bits(ops.gelu(xs), ops.gelu(x))
        assert_same_bits(ops.rope(xs), ops.rope(x))


def test_arguments_are_not_written_to():
    x, w = normal(1, 4, 9, 24), normal(2, 24, 24)
    before = x.copy()
    for y in (
        ops.gelu(x),
        ops.softmax(x),
        ops.rope(x),
        ops.rms_norm(x, w[0]),
        ops.linear(x, w),
        ops.attention(x, x, x),
    ):
        assert not np.shares_memory(x, y)
    assert_same_bits(x, before)


def test_threads_do_not_change_bits():
    x, w, b = normal(1, 8, 200, 64), normal(2, 64, 64), normal(3, 64)
    for function in (
        lambda n: ops.attention(x, x, x, causal=True, num_threads=n),
        lambda n: ops.linear(x, w, b, "gelu", num_threads=n),
        lambda n: ops.ffn(x, w, b, w, b, "silu", w, num_threads=n),
        lambda n: ops.layer_norm(x, b, b, num_threads=n),
        lambda n: ops.rms_norm(x, b, num_threads=n),
        lambda n: ops.softmax(x, num_threads=n),
        lambda n: ops.gelu(x, num_threads=n),
        lambda n: ops.silu(x, num_threads=n),
        lambda n: ops.relu(x, num_threads=n),
        lambda n: ops.rope(x, num_threads=n),
        lambda n: ops.rope(x, layout="interleaved", num_threads=n),
    ):
        one = function(1)
        for threads in (2, 3, None):
            assert_same_bits(function(threads), one)


def test_nan_propagates():
    x, ones = normal(1, 4, 24), np.ones(24, np.float32)
    x[1, 3] = np.nan
    for y in (
        ops.softmax(x),
        ops.layer_norm(x, ones),
        ops.rms_norm(x, ones),
        ops.linear(x, normal(2, 5, 24)),
    ):
        assert (np.isnan(y) == (np.arange(4) == 1)[:, None]).all()
    for y in (ops.gelu(x), ops.gelu(x, "tanh"), ops.silu(x), ops.relu(x)):
        assert (np.isnan(y) == np.isnan(x)).all()


A, W, B, H = normal(1, 3, 8), normal(2, 5, 8), normal(3, 5), normal(4, 4, 3, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.gelu(A.astype(float)), "gelu: x is float64, expected float32"),
        (lambda: ops.silu(A.astype(np.float16)), "silu: x is float16, expected float32"),
        (lambda: ops.relu(A.astype(">f4")), "relu: x is >f4, expected float32"),
        (lambda: ops.relu([1.0, 2.0]), "relu: x is a list, expected a NumPy array"),
        (lambda: ops.gelu(A, "sigmoid"), "gelu: approximate is 'none' or 'tanh', not 'sigmoid'"),
        (lambda: ops.gelu(A, num_threads=0), "num_threads: must be at least 1, got 0"),
        (lambda: ops.softmax(A, 2), "softmax: x has 2 axes, no axis 2"),
        (lambda: ops.softmax(A[0, 0, ...]), "softmax: x has shape (), expected at least 1 axes"),
        (lambda: ops.layer_norm(A, B), "layer_norm: weight has shape (5,), expected (8,)"),
        (lambda: ops.layer_norm(A, A[0], B), "layer_norm: bias has shape (5,), expected (8,)"),
        (lambda: ops.rms_norm(A, A), "rms_norm: weight has shape (3, 8), expected (8,)"),
        (lambda: ops.rms_norm(A, A[0].astype(int)), "rms_norm: weight is int64, expected float32"),
        (lambda: ops.linear(A, B), "linear: weight has shape (5,), expected [out, in]"),
        (lambda: ops.linear(A, W.T), "linear: x has 8 features, weight (8, 5) takes 5"),
        (lambda: ops.linear(A, W, A[0]), "linear: bias has shape (8,), expected (5,)"),
        (lambda: ops.linear(A, W.astype(float)), "linear: weight is float64, expected float32"),
        (lambda: ops.linear(A, W, None, "swish"), "linear: activation is one of"),
        (lambda: ops.ffn(A, W, None, W, None), "ffn: x has 5 features, w2 (5, 8) takes 8"),
        (lambda: ops.ffn(A, W, B, W.T, None, "silu", W[:4]), "ffn: gate has shape (4, 8), w1 (5, 8)"),
        (lambda: ops.ffn(A, W, A[0], W.T, None), "ffn: b1 has shape (8,), expected (5,)"),
        (lambda: ops.rope(A, np.arange(4)), "rope: positions has shape (4,), expected (3,)"),
        (lambda: ops.rope(A, ["a", "b", "c"]), "rope: positions is <U1, expected numbers"),
        (lambda: ops.rope(A, layout="neox"), "rope: layout is 'half' or 'interleaved', not 'neox'"),
        (lambda: ops.rope(A, rotary_dim=3), "rope: rotary_dim 3 is not an even number up to head_dim 8"),
        (lambda: ops.rope(A, rotary_dim=10), "rope: rotary_dim 10 is not an even number up to head_dim 8"),
        (lambda: ops.rope(A[:, :7]), "rope: rotary_dim 7 is not an even number up to head_dim 7"),
        (lambda: ops.rope(A[0]), "rope: x has shape (8,), expected at least 2 axes"),
        (lambda: ops.sinusoidal_positions(-1, 4), "sinusoidal_positions: n and dim can't be negative"),
        (lambda: ops.attention(A, A, A), "attention: q has shape (3, 8), expected at least 3 axes"),
        (lambda: ops.attention(H, H[..., :6], H), "attention: head_dim 8 of q does not match 6 of k"),
        (
            lambda: ops.attention(H, H, H[:, :2]),
            "attention: shape (4, 3, 8) of k does not match (4, 2, 8) of v",
        ),
        (lambda: ops.attention(H[None], H, H), "attention: batch shape [1] of q does not match [] of k"),
        (lambda: ops.attention(H, H[:3], H[:3]), "attention: 4 heads of q do not share 3 heads of k evenly"),
        (lambda: ops.attention(H, H[:0], H[:0]), "attention: 4 heads of q do not share 0 heads of k evenly"),
        (
            lambda: ops.attention(H, H[:, :2], H[:, :2], causal=True),
            "attention: 3 causal tokens of q are not the last of 2 keys",
        ),
        (lambda: ops.attention(H, H.astype(float), H), "attention: k is float64, expected float32"),
        (
            lambda: ops.attention(H, H[:, :2], H[:, :2], window=4),
            "attention: 3 tokens of q have no positions among 2 keys",
        ),
        (lambda: ops.attention(H, H, H, window=0), "attention: window is 0, expected at least 1"),
        (lambda: ops.attention(H, H, H, soft_cap=-1.0), "attention: soft_cap is -1.0, expected more than 0"),
        (lambda: ops.attention(H, H, H, alibi_slopes=B), "attention: alibi_slopes has shape (5,), expected (4,)"),
        (
            lambda: ops.attention(H, H, H, relative_bias=W[:4]),
            "attention: relative_bias has shape (4, 8), expected (4, an odd number)",
        ),
    ],
)
def test_errors_name_the_operation_and_the_argument(call, message):
    with pytest.raises(Error) as raised:
        call()
    assert str(raised.value).startswith(message)


def test_kernels_run_in_a_forked_child():
    """OpenMP's threads do not survive a fork; the child must not wait for them."""
    script = """if True:
        import os, numpy as np
        from qkv import ops
        x = np.ones((500, 500), np.float32)
        before = ops.linear(x, x, num_threads=2)
        child = os.fork()
        if child == 0:
            same = (ops.linear(x, x, num_threads=2) == before).all()
            os._exit(0 if same else 1)
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=60)


def test_weights_serve_the_instruction_set_they_were_packed_for():
    """A later choice does not touch them."""
    x, w = normal(1, 3, 24), normal(2, 70, 24)
    isas, chosen = _ext.available_isas(), _ext.chosen_isa()["isa"]
    try:
        for isa in isas:
            _ext.choose_isa(isa)
            packed = _ext.Weight(70, 24, "float32", "panels")
            packed.fill(w, 0, 0, 1)
            before = _ext.linear(x, packed, "identity", None)
            for other in isas:
                _ext.choose_isa(other)
                assert_same_bits(_ext.linear(x, packed, "identity", None), before)
    finally:
        _ext.choose_isa(chosen)
