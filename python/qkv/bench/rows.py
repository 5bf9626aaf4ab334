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
    from scipy.special import erf  # type: ignore[import-untyped]
except ImportError:
    erf = None

Array: TypeAlias = npt.NDArray[np.float32]


def np_softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    y: Array = e / e.sum(axis=-1, keepdims=True)
    return y


def np_layer_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    y: Array = centred / np.sqrt(variance + np.float32(eps)) * weight + bias
    return y


def np_rms_norm(x: Array, weight: Array, eps: float = 1e-6) -> Array:
    y: Array = x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(eps)) * weight
    return y


def np_gelu(x: Array) -> Array:
    y: Array = x * np.float32(0.5) * (1 + erf(x * np.float32(0.5**0.5)))
    return y


def np_gelu_tanh(x: Array) -> Array:
    y: Array = x * np.float32(0.5) * (1 + np.tanh(np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x)))
    return y


def np_rope(x: Array, cosine: Array, sine: Array) -> Array:
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], axis=-1)


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
    yield Beside("GELU (tanh), 128 × 3072", lambda: np_gelu_tanh(wide), lambda: ops.gelu(wide, "tanh"))
    heads = normal(32, 128, 64)
    angles = np.arange(128)[:, None] * 10000.0 ** -(np.arange(32) / 32)
    cosine, sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    yield Beside("RoPE, 32 heads of 128 × 64", lambda: np_rope(heads, cosine, sine), lambda: ops.rope(heads))


def norms(machine: Machine) -> Iterator[Case]:
    """Each kernel's share is how many times as fast as NumPy it is."""
    for beside in row_cases():
        name, _, shape = beside.name.partition(", ")
        yield Case("norms", name, shape, "float32", "Gvalues/s", "NumPy", goal=10, make=partial(_job, beside))


def _job(beside: Beside) -> Job:
    return Job(timer(beside.qkv), work=beside.qkv().size / 1e9, cost=1, numpy=timer(beside.numpy))
