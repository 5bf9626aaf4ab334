"""Kernels of single rows beside straightforward vectorised NumPy: norms, softmax, activations, positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from qkv import ops
from qkv.bench.timing import Case, Job, Machine, timer

try:  # SciPy is not needed for anything else
    from scipy.special import erf
except ImportError:
    erf = None

Array: TypeAlias = npt.NDArray[np.float32]


# As one writes NumPy that has to be fast: no pass that can be saved, and temporaries are worked on in place.


def _squares(x: Array) -> Array:
    """The mean square of each row; NumPy 1 has no vecdot."""
    sums: Array = np.vecdot(x, x) if hasattr(np, "vecdot") else np.einsum("...i,...i", x, x)
    return sums[..., None] / np.float32(x.shape[-1])


def np_softmax(x: Array) -> Array:
    e: Array = x - x.max(axis=-1, keepdims=True)
    np.exp(e, out=e)
    e /= e.sum(axis=-1, keepdims=True)
    return e


def np_layer_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    y: Array = x - x.mean(axis=-1, keepdims=True)
    variance = _squares(y)
    y *= 1 / np.sqrt(variance + np.float32(eps))
    y *= weight
    y += bias
    return y


def np_rms_norm(x: Array, weight: Array, eps: float = 1e-6) -> Array:
    mean_square = _squares(x)
    y: Array = x * (1 / np.sqrt(mean_square + np.float32(eps)))
    y *= weight
    return y


def np_gelu(x: Array) -> Array:
    y = x * np.float32(0.5**0.5)
    erf(y, out=y)
    y += 1
    y *= x
    y *= np.float32(0.5)
    return y


def np_gelu_tanh(x: Array) -> Array:
    y = x * x
    y *= np.float32(0.7978845608 * 0.044715)
    y += np.float32(0.7978845608)
    y *= x
    np.tanh(y, out=y)
    y += 1
    y *= x
    y *= np.float32(0.5)
    return y


def np_silu(x: Array) -> Array:
    y = -x
    np.exp(y, out=y)
    y += 1
    return np.divide(x, y, out=y)


def np_rope(x: Array, cosine: Array, sine: Array) -> Array:
    """cosine and sine: [tokens, head_dim], with the sines of the first half negated."""
    half = x.shape[-1] // 2
    y: Array = x * cosine
    other = np.empty_like(x)
    other[..., :half], other[..., half:] = x[..., half:], x[..., :half]
    other *= sine
    y += other
    return y


@dataclass(frozen=True)
class Beside:
    """The same work done by NumPy and by qkv; both give the same array."""

    name: str
    numpy: Callable[[], Array]
    qkv: Callable[[], Array]


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def row_cases() -> Iterator[Beside]:
    """At the sizes of a BERT-base layer on 128 tokens; without SciPy there is no exact GELU to compare with."""
    x, weight, bias = normal(128, 768), normal(768), normal(768)
    yield Beside(
        "LayerNorm, 128 × 768",
        lambda: np_layer_norm(x, weight, bias),
        lambda: ops.layer_norm(x, weight, bias),
    )
    yield Beside("RMSNorm, 128 × 768", lambda: np_rms_norm(x, weight), lambda: ops.rms_norm(x, weight))
    wide, scores = normal(128, 3072), normal(12, 128, 128)
    yield Beside("softmax, 1536 × 128", lambda: np_softmax(scores), lambda: ops.softmax(scores))
    if erf is not None:
        yield Beside("GELU, 128 × 3072", lambda: np_gelu(wide), lambda: ops.gelu(wide))
    yield Beside("SiLU, 128 × 3072", lambda: np_silu(wide), lambda: ops.silu(wide))
    yield Beside("GELU (tanh), 128 × 3072", lambda: np_gelu_tanh(wide), lambda: ops.gelu(wide, "tanh"))
    heads = normal(32, 128, 64)
    angles = np.arange(128)[:, None] * 10000.0 ** -(np.arange(64) % 32 / 32)
    cosine = np.cos(angles).astype(np.float32)
    sine = (np.sin(angles) * np.repeat([-1, 1], 32)).astype(np.float32)
    yield Beside("RoPE, 32 heads of 128 × 64", lambda: np_rope(heads, cosine, sine), lambda: ops.rope(heads))


def norms(machine: Machine) -> Iterator[Case]:
    """Each kernel's share is how many times as fast as NumPy it is."""
    for beside in row_cases():
        name, _, shape = beside.name.partition(", ")
        yield Case("norms", name, shape, "float32", "Gvalues/s", "NumPy", goal=10, make=partial(_job, beside))


def _job(beside: Beside) -> Job:
    return Job(timer(beside.qkv), work=beside.qkv().size / 1e9, cost=1, numpy=timer(beside.numpy))
