"""The kernels as plain functions on NumPy arrays.

Every function takes float32 arrays of any batch shape (`...` below; empty and non-contiguous ones too) and
returns a new float32 array. Nothing is cast: another dtype is an error, as a silent copy can cost more than
the kernel. A row of a result has the same bits whatever the batch around it and whatever `num_threads`, which
for every function defaults to the physical cores that the process may use.

All functions raise `qkv.Error` when a dtype or a shape does not fit.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from qkv import _ext
from qkv.errors import Error
from qkv.machine import default_threads

Float32: TypeAlias = npt.NDArray[np.float32]
Activation: TypeAlias = Literal["relu", "gelu", "gelu_tanh", "silu"]
Approximate: TypeAlias = Literal["none", "tanh"]
RopeLayout: TypeAlias = Literal["half", "interleaved"]

__all__ = [
    "attention",
    "ffn",
    "gelu",
    "layer_norm",
    "linear",
    "relu",
    "rms_norm",
    "rope",
    "silu",
    "sinusoidal_positions",
    "softmax",
]


def attention(
    q: Float32,
    k: Float32,
    v: Float32,
    *,
    causal: bool = False,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    alibi_slopes: Float32 | None = None,
    relative_bias: Float32 | None = None,
    num_threads: int | None = None,
) -> Float32:
    """Scaled dot-product attention, `softmax(scale q kᵀ) v` (Vaswani et al. 2017, equation 1).

    The scores are never stored: the softmax runs along blocks of keys (Milakov and Gimelshein 2018).

    Args:
        q: queries `[..., heads, tokens, head_dim]`.
        k: keys `[..., kv_heads, keys, head_dim]`. With fewer `kv_heads` than `heads`, each serves
            `heads / kv_heads` neighbouring query heads (grouped-query attention, Ainslie et al. 2023).
        v: values, shaped like `k`.
        causal: query i sees no later position. The queries are the last `tokens` of the `keys` positions.
        scale: factor of the scores; `1 / sqrt(head_dim)` by default.
        window: a query sees only keys at distances below `window` from it (sliding window, Beltagy et al. 2020).
        soft_cap: a score `s` becomes `soft_cap tanh(s / soft_cap)` (Gemma 2).
        alibi_slopes: `[heads]`; `slope |key - query|` is subtracted from scores (ALiBi, Press et al. 2022).
        relative_bias: `[heads, 2 n + 1]`, added to the scores of distances `key - query` from `-n` to `n`; larger
            distances are held at the ends, as T5 does (Raffel et al. 2020).

    Returns:
        `[..., heads, tokens, head_dim]`, zeros where there are no keys. In memory the heads of one token lie
        side by side, as the layer's output projection wants them; inputs laid out like that are not copied.

    Raises:
        qkv.Error: a dtype or shape does not fit.
    """
    op = "attention"
    for name, x in (("q", q), ("k", k), ("v", v)):
        _check(op, name, x, at_least=3)
    _expect(op, q.shape[-1] == k.shape[-1], f"head_dim {q.shape[-1]} of q does not match {k.shape[-1]} of k")
    _expect(op, k.shape == v.shape, f"shape {k.shape} of k does not match {v.shape} of v")
    *batch, heads, tokens, head_dim = q.shape
    *kv_batch, kv_heads, keys, _ = k.shape
    _expect(op, batch == kv_batch, f"batch shape {batch} of q does not match {kv_batch} of k")
    shared = heads == kv_heads or (kv_heads > 0 and heads % kv_heads == 0)
    _expect(op, shared, f"{heads} heads of q do not share {kv_heads} heads of k evenly")
    _expect(op, not causal or keys >= tokens, f"{tokens} causal tokens of q are not the last of {keys} keys")
    placed = not (window is None and alibi_slopes is None and relative_bias is None)
    _expect(op, not placed or keys >= tokens, f"{tokens} tokens of q have no positions among {keys} keys")
    _expect(op, window is None or window > 0, f"window is {window}, expected at least 1")
    _expect(op, soft_cap is None or soft_cap > 0, f"soft_cap is {soft_cap}, expected more than 0")
    if alibi_slopes is not None:
        _check(op, "alibi_slopes", alibi_slopes)
        fits = alibi_slopes.shape == (heads,)
        _expect(op, fits, f"alibi_slopes has shape {alibi_slopes.shape}, expected ({heads},)")
    if relative_bias is not None:
        _check(op, "relative_bias", relative_bias)
        fits = relative_bias.ndim == 2 and relative_bias.shape[0] == heads and relative_bias.shape[1] % 2 == 1
        _expect(op, fits, f"relative_bias has shape {relative_bias.shape}, expected ({heads}, an odd number)")
    if q.size == 0 or k.size == 0:
        return np.zeros(q.shape, np.float32)

    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    q_rows, k_rows, v_rows = (_tokens_first(x) for x in (q, k, v))
    y = _ext.attention(
        q_rows,
        k_rows,
        v_rows,
        None,
        causal,
        scale,
        _threads(num_threads),
        window=window or 0,
        soft_cap=soft_cap or 0.0,
        slopes=alibi_slopes,
        relative_bias=relative_bias,
    )
    return y.swapaxes(1, 2).reshape(q.shape)


def layer_norm(
    x: Float32,
    weight: Float32,
    bias: Float32 | None = None,
    eps: float = 1e-5,
    *,
    num_threads: int | None = None,
) -> Float32:
    """`(x - mean) / sqrt(variance + eps) * weight + bias` over the last axis (Ba, Kiros and Hinton 2016).

    The variance is the population's, taken in a second pass around the mean.

    Args:
        x: `[..., n]`.
        weight: `[n]`.
        bias: `[n]` or None.
        eps: added to the variance.

    Raises:
        qkv.Error: a dtype or shape does not fit.
    """
    return _norm("layer_norm", x, weight, bias, eps, num_threads)


def rms_norm(x: Float32, weight: Float32, eps: float = 1e-6, *, num_threads: int | None = None) -> Float32:
    """`x / sqrt(mean(x²) + eps) * weight` over the last axis (Zhang and Sennrich 2019).

    Args:
        x: `[..., n]`.
        weight: `[n]`.
        eps: added to the mean square.

    Raises:
        qkv.Error: a dtype or shape does not fit.
    """
    return _norm("rms_norm", x, weight, None, eps, num_threads)


def linear(
    x: Float32,
    weight: Float32,
    bias: Float32 | None = None,
    activation: Activation | None = None,
    *,
    num_threads: int | None = None,
) -> Float32:
    """`activation(x weightᵀ + bias)`.

    The weight is packed for the kernel in each call, which for few rows costs more than the product; models
    pack theirs once, when they are loaded.

    Args:
        x: `[..., in]`.
        weight: `[out, in]`, as PyTorch and checkpoints hold it.
        bias: `[out]` or None.
        activation: None, "relu", "gelu", "gelu_tanh" or "silu".

    Returns:
        `[..., out]`.

    Raises:
        qkv.Error: a dtype or shape does not fit, or the activation is unknown.
    """
    return _linear("linear", x, ("weight", weight), ("bias", bias), activation, None, num_threads)


def ffn(
    x: Float32,
    w1: Float32,
    b1: Float32 | None,
    w2: Float32,
    b2: Float32 | None,
    activation: Activation = "gelu",
    gate: Float32 | None = None,
    *,
    num_threads: int | None = None,
) -> Float32:
    """The position-wise feed-forward network of a transformer layer.

    Without `gate`, `activation(x w1ᵀ + b1) w2ᵀ + b2` (Vaswani et al. 2017, equation 2). With it,
    `(activation(x gateᵀ) * (x w1ᵀ + b1)) w2ᵀ + b2`: GeGLU with "gelu", SwiGLU with "silu" (Shazeer 2020).

    Args:
        x: `[..., n]`.
        w1: `[hidden, n]`.
        b1: `[hidden]` or None.
        w2: `[out, hidden]`.
        b2: `[out]` or None.
        activation: "relu", "gelu", "gelu_tanh" or "silu".
        gate: `[hidden, n]` or None.

    Returns:
        `[..., out]`.

    Raises:
        qkv.Error: a dtype or shape does not fit, or the activation is unknown.
    """
    hidden = _linear("ffn", x, ("w1", w1), ("b1", b1), activation, gate, num_threads)
    return _linear("ffn", hidden, ("w2", w2), ("b2", b2), None, None, num_threads)


def softmax(x: Float32, axis: int = -1, *, num_threads: int | None = None) -> Float32:
    """`exp(x - max x)` over its sum along `axis`.

    Args:
        x: any shape but `[]`.
        axis: the axis that sums to 1.

    Raises:
        qkv.Error: the dtype does not fit, or there is no such axis.
    """
    _check("softmax", "x", x, at_least=1)
    if axis in (-1, x.ndim - 1):
        return _ext.softmax(_contiguous(x), _threads(num_threads))
    _expect("softmax", -x.ndim <= axis < x.ndim, f"x has {x.ndim} axes, no axis {axis}")
    return np.moveaxis(softmax(np.moveaxis(x, axis, -1), num_threads=num_threads), -1, axis)


def gelu(x: Float32, approximate: Approximate = "none", *, num_threads: int | None = None) -> Float32:
    """The Gaussian error linear unit, `x Φ(x)` (Hendrycks and Gimpel 2016).

    Args:
        x: any shape.
        approximate: "none", or "tanh" for `x / 2 (1 + tanh(sqrt(2 / π) (x + 0.044715 x³)))`.

    Raises:
        qkv.Error: the dtype does not fit, or `approximate` is unknown.
    """
    if approximate not in ("none", "tanh"):
        raise Error(f"gelu: approximate is 'none' or 'tanh', not {approximate!r}")
    return _map("gelu", "gelu" if approximate == "none" else "gelu_tanh", x, num_threads)


def silu(x: Float32, *, num_threads: int | None = None) -> Float32:
    """`x / (1 + exp(-x))`, also called swish (Hendrycks and Gimpel 2016; Ramachandran et al. 2017).

    Args:
        x: any shape.

    Raises:
        qkv.Error: the dtype does not fit.
    """
    return _map("silu", "silu", x, num_threads)


def relu(x: Float32, *, num_threads: int | None = None) -> Float32:
    """`max(x, 0)`.

    Args:
        x: any shape.

    Raises:
        qkv.Error: the dtype does not fit.
    """
    return _map("relu", "relu", x, num_threads)


def rope(
    x: Float32,
    positions: npt.ArrayLike | None = None,
    theta: float = 10000.0,
    rotary_dim: int | None = None,
    layout: RopeLayout = "half",
    *,
    num_threads: int | None = None,
) -> Float32:
    """Rotary position embedding (Su et al. 2021): pair i turns by `position * theta^(-2i / rotary_dim)`.

    Angles are taken in float64. The cosines and sines of the last few calls' positions are kept, as every layer
    of a model asks for the same ones.

    Args:
        x: queries or keys `[..., tokens, head_dim]`.
        positions: `[tokens]`; `0 ... tokens - 1` by default.
        theta: base of the frequencies.
        rotary_dim: how many leading features turn (even); all by default.
        layout: which features are a pair: "half" for `(i, i + rotary_dim / 2)`, as in LLaMA and GPT-NeoX
            checkpoints, "interleaved" for `(2i, 2i + 1)`, as in GPT-J and the paper.

    Raises:
        qkv.Error: a dtype or shape does not fit, or the layout is unknown.
    """
    _check("rope", "x", x, at_least=2)
    tokens, head_dim = x.shape[-2:]
    turned = head_dim if rotary_dim is None else rotary_dim
    if turned % 2 or not 0 <= turned <= head_dim:
        raise Error(f"rope: rotary_dim {turned} is not an even number up to head_dim {head_dim}")
    if layout not in ("half", "interleaved"):
        raise Error(f"rope: layout is 'half' or 'interleaved', not {layout!r}")
    if positions is None:
        table = _rotary(tokens, turned, theta)
    else:
        where = np.asarray(positions)
        _expect("rope", where.shape == (tokens,), f"positions has shape {where.shape}, expected ({tokens},)")
        _expect("rope", where.dtype.kind in "iuf", f"positions is {where.dtype}, expected numbers")
        table = _rotary(where.astype(np.float64).tobytes(), turned, theta)
    return _ext.rope(_contiguous(x), table, layout == "interleaved", _threads(num_threads))


def sinusoidal_positions(n: int, dim: int) -> Float32:
    """The position table of Vaswani et al. 2017, section 3.5: `[n, dim]`, sines and cosines interleaved.

    `table[pos, 2i] = sin(pos / 10000^(2i / dim))` and `table[pos, 2i + 1]` its cosine.

    Raises:
        qkv.Error: a negative size.
    """
    _expect("sinusoidal_positions", n >= 0 and dim >= 0, f"n and dim can't be negative, got {n} and {dim}")
    angles = np.arange(n)[:, None] * _frequencies(dim, 10000.0)
    table = np.empty((n, dim), np.float32)
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles[:, : dim // 2])
    return table


def _frequencies(dim: int, theta: float) -> npt.NDArray[np.float64]:
    """`theta^(-2i / dim)` for each pair i of `dim` features."""
    return np.asarray(theta ** -(np.arange(0, dim, 2) / max(1, dim)), np.float64)


@functools.lru_cache(maxsize=4)  # queries and keys, in local and global layers
def _rotary(positions: int | bytes, dim: int, theta: float) -> Float32:
    """What the kernels rotate with: `[tokens, dim]`, cosines, then sines.

    `positions` are the bytes of float64 numbers, or how many to count from 0.
    """
    where = np.arange(positions) if isinstance(positions, int) else np.frombuffer(positions, np.float64)
    angles = where[:, None] * _frequencies(dim, theta)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def _norm(op: str, x: Float32, weight: Float32, bias: Float32 | None, eps: float, num_threads: int | None) -> Float32:
    _check(op, "x", x, at_least=1)
    n = x.shape[-1]
    for name, values in (("weight", weight), ("bias", bias)):
        if values is not None:
            _check(op, name, values)
            if values.shape != (n,):
                raise Error(f"{op}: {name} has shape {values.shape}, expected ({n},)")
    return _ext.norm(_contiguous(x), weight, bias, eps, op == "layer_norm", _threads(num_threads))


def _linear(
    op: str,
    x: Float32,
    named_weight: tuple[str, Float32],
    named_bias: tuple[str, Float32 | None],
    activation: Activation | None,
    gate: Float32 | None,
    num_threads: int | None,
) -> Float32:
    (weight_name, weight), (bias_name, bias) = named_weight, named_bias
    known = (None, "relu", "gelu", "gelu_tanh", "silu")
    _expect(op, activation in known, f"activation is one of {known}, not {activation!r}")
    _check(op, "x", x, at_least=1)
    _check(op, weight_name, weight)
    _expect(op, weight.ndim == 2, f"{weight_name} has shape {weight.shape}, expected [out, in]")
    out, n = weight.shape
    _expect(op, x.shape[-1] == n, f"x has {x.shape[-1]} features, {weight_name} {weight.shape} takes {n}")
    if bias is not None:
        _check(op, bias_name, bias)
        _expect(op, bias.shape == (out,), f"{bias_name} has shape {bias.shape}, expected ({out},)")
    if gate is not None:
        _check(op, "gate", gate)
        _expect(op, gate.shape == weight.shape, f"gate has shape {gate.shape}, {weight_name} {weight.shape}")

    shape = (*x.shape[:-1], out)
    threads = _threads(num_threads)
    if weight.size == 0:  # nothing to pack
        y = np.zeros(shape, np.float32) if bias is None else np.broadcast_to(bias, shape)
        y = y * 0 if gate is not None else y  # every activation is 0 at 0
        return _ext.map(activation or "identity", _contiguous(y), threads).reshape(shape)

    halves = [weight] if gate is None else [gate, weight]
    packed = _ext.Weight(out * len(halves), n, "float32", "panels" if gate is None else "gated")
    for half, rows in enumerate(halves):
        packed.fill(np.require(rows, requirements=["ALIGNED"]), 0, half, threads)
    if bias is not None:
        packed.fill_bias(np.require(bias, requirements=["ALIGNED"]), 0, len(halves) - 1)
    return _ext.linear(_rows(x), packed, activation or "identity", None, threads).reshape(shape)


def _map(op: str, function: str, x: Float32, num_threads: int | None) -> Float32:
    _check(op, "x", x)
    return _ext.map(function, _contiguous(x), _threads(num_threads))


def _check(op: str, name: str, x: Float32, at_least: int = 0) -> None:
    # one test for what fits: the kernels take a few microseconds, which is what it costs to write the messages
    if isinstance(x, np.ndarray) and x.dtype == _FLOAT32 and x.ndim >= at_least:
        return
    _expect(op, isinstance(x, np.ndarray), f"{name} is a {type(x).__name__}, expected a NumPy array")
    _expect(op, x.dtype == _FLOAT32, f"{name} is {x.dtype}, expected float32")
    raise Error(f"{op}: {name} has shape {x.shape}, expected at least {at_least} axes")


def _expect(op: str, holds: bool, message: str) -> None:
    if not holds:
        raise Error(f"{op}: {message}")


_FLOAT32 = np.dtype(np.float32)

# Asking the system takes longer than many a kernel.
_default_threads = functools.cache(default_threads)


def _threads(num_threads: int | None) -> int:
    if num_threads is None:
        return _default_threads()
    _expect("num_threads", num_threads >= 1, f"must be at least 1, got {num_threads}")
    return num_threads


def _contiguous(x: Float32) -> Float32:
    flags = x.flags
    if flags.c_contiguous and flags.aligned:
        return x
    return np.require(x, requirements=["C_CONTIGUOUS", "ALIGNED"])


def _rows(x: Float32) -> Float32:
    """`[..., n]` as `[rows, n]`."""
    return _contiguous(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _tokens_first(x: Float32) -> Float32:
    """`[..., heads, tokens, head_dim]` as `[batch, tokens, heads, head_dim]`."""
    swapped = _contiguous(x.swapaxes(-3, -2))
    return swapped.reshape(math.prod(x.shape[:-3]), *swapped.shape[-3:])
