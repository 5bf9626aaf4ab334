"""float64 versions of what the kernels compute, and the ways in which tests compare."""

from __future__ import annotations

import numpy as np
from scipy.special import erf

from qkv import _ext

ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """uint16, rounded to nearest even; for finite x."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def widen(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def pack(
    weight: np.ndarray, dtype: str = "float32", bias: np.ndarray | None = None, gate: np.ndarray | None = None
) -> _ext.Weight:
    """A weight for the chosen instruction set; with `gate`, y = f(x gateᵀ) * (x weightᵀ + bias)."""
    halves = [weight] if gate is None else [gate, weight]
    out, n = weight.shape
    packed = _ext.Weight(out * len(halves), n, dtype, "panels" if gate is None else "gated")
    for half, rows in enumerate(halves):
        packed.fill(rows, 0, half, 1)
    if bias is not None:
        packed.fill_bias(bias, 0, len(halves) - 1)
    return packed


def rotary(positions: np.ndarray, dim: int, theta: float = 10000.0) -> np.ndarray:
    """[tokens, dim]: cosines, then sines."""
    angles = positions[:, None] * theta ** -(np.arange(0, dim, 2) / dim)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def rotate(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """x: [..., tokens, heads, head_dim] turned by the rotary table, in float64."""
    half = table.shape[1] // 2
    cosine, sine = table[:, None, :half].astype(float), table[:, None, half:].astype(float)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine, rest], axis=-1)


def rounded(x: np.ndarray, kv_type: str) -> np.ndarray:
    """Keys or values [..., head_dim] as pages hold them, in float64."""
    if kv_type == "bfloat16":
        return widen(bfloat16_bits(x)).astype(float)
    if kv_type == "int8":
        most = abs(x).max(axis=-1, keepdims=True)
        steps = np.rint(x * np.divide(np.float32(127), most, out=np.zeros_like(most), where=most > 0))
        return steps.astype(float) * (most / np.float32(127))
    return x.astype(float)


def attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool, scale: float, table: np.ndarray | None = None, **options
) -> tuple[np.ndarray, np.ndarray]:
    """The result in float64, and its magnitude for `assert_close`; the arguments as in `attention_weights`."""
    weights, products = attention_weights(q, k, causal, scale, table, **options)
    v = np.repeat(rounded(v, options.get("kv_type", "float32")), q.shape[2] // k.shape[2], axis=2)
    magnitude = (1 + products) * np.einsum("bhts,bshd->bthd", weights, abs(v))
    return np.einsum("bhts,bshd->bthd", weights, v), magnitude


def attention_weights(
    q: np.ndarray,
    k: np.ndarray,
    causal: bool,
    scale: float,
    table: np.ndarray | None = None,
    *,
    window: int = 0,
    soft_cap: float = 0,
    slopes: np.ndarray | None = None,
    rounded_alibi: bool = False,
    relative_bias: np.ndarray | None = None,
    kv_type: str = "float32",
) -> tuple[np.ndarray, np.ndarray]:
    """The weights [batch, heads, tokens, keys] in float64, and the sizes of the scores [batch, tokens, heads, 1].

    q: [batch, tokens, heads, head_dim]; k: [batch, keys, kv_heads, head_dim]; table: [keys, rotary_dim].
    """
    tokens, keys, group = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    if table is not None:
        q, k = rotate(q, table[keys - tokens :]), rotate(k, table)
    q, k = q.astype(float), np.repeat(rounded(k, kv_type), group, axis=2)
    scores = np.einsum("bthd,bshd->bhts", q, k) * scale
    # an error of a score, relative to the sizes of what it is made of, is that of the weight, absolute
    products = np.einsum("bthd,bshd->bths", abs(q), abs(k)).max(axis=-1, keepdims=True) * scale
    distance = np.arange(keys) - np.arange(keys - tokens, keys)[:, None]  # [tokens, keys]
    if soft_cap:
        scores = soft_cap * np.tanh(scores / soft_cap)
    if slopes is not None and rounded_alibi:
        terms = scale * alibi_terms(slopes, keys)[:, None]  # [heads, 1, keys]
        scores += terms
        products = products + abs(terms - terms[..., keys - tokens :].swapaxes(1, 2)).max()
    elif slopes is not None:
        scores -= slopes[:, None, None] * abs(distance)
        products = products + slopes[:, None] * abs(distance).max()
    if relative_bias is not None:
        n = relative_bias.shape[1] // 2
        scores += relative_bias[:, np.clip(distance, -n, n) + n]
        products = products + abs(relative_bias).max()
    hidden = (distance > 0) & causal
    if window:
        hidden |= abs(distance) >= window
    scores[..., hidden] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights, products


def alibi_terms(slopes: np.ndarray, keys: int) -> np.ndarray:
    """bfloat16(slope position) of bfloat16 slopes and positions, as Falcon's ALiBi is: [heads, keys] in float64."""
    bf16_slopes, positions = (widen(bfloat16_bits(x.astype(np.float32))) for x in (slopes, np.arange(keys)))
    return widen(bfloat16_bits(bf16_slopes[:, None] * positions)).astype(float)


def assert_close(y: np.ndarray, expected: np.ndarray, magnitude: np.ndarray) -> None:
    """float32 arithmetic: errors relative to `magnitude`, the sum of the sizes of all that was added up.

    One rounding costs at most 2^-24 = 6e-8. A sum takes many, which mostly cancel: all elements together are
    within 1e-7, and none is further off than 5e-7.
    """
    assert y.shape == expected.shape
    assert y.dtype == np.float32
    error = abs(y - expected)
    assert np.linalg.norm(error) <= 1e-7 * np.linalg.norm(magnitude)
    assert (error <= 5e-7 * magnitude).all()


def assert_attended(y: np.ndarray, expected: np.ndarray, magnitude: np.ndarray, kv_type: str) -> None:
    """As `assert_close`, but where bfloat16 pairs are multiplied: there queries and weights are rounded, too.

    One such rounding costs at most 2^-8, and a result depends on two scores: its own and those it is compared with.
    """
    if not (kv_type == "bfloat16" and _ext.chosen_isa()["bf16_dot"]):
        assert_close(y, expected, magnitude)
        return
    assert y.shape == expected.shape
    assert y.dtype == np.float32
    error = abs(y - expected)
    assert np.linalg.norm(error) <= 2**-11 * np.linalg.norm(magnitude)  # most of it cancels
    assert (error <= 2 * 2**-8 * magnitude).all()


def assert_same_bits(a: np.ndarray, b: np.ndarray) -> None:
    assert a.shape == b.shape
    np.testing.assert_array_equal(np.ascontiguousarray(a).view(np.uint32), np.ascontiguousarray(b).view(np.uint32))
