"""The nodes of a graph. A `Tensor` stands for rows of float32 values; its `op` says how they are made.

Ops are plain descriptions: `build` makes them, `fuse` rewrites them, `lower` turns each into one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qkv.checkpoint import Param
from qkv.graph.rope import Rope

# What a buffer has one row for. Source rows are the tokens that an encoder reads, where there is a decoder, too.
Rows = Literal["tokens", "sequences", "logits", "source"]
DType = Literal["float32", "bfloat16", "int8"]  # of a buffer


@dataclass(frozen=True)
class Constant:
    """A table that is in no checkpoint: it is computed when it is read, which a plan never does. `name` says what is in
    it: equal names, equal values."""

    name: str
    shape: tuple[int, int]
    compute: Callable[[], NDArray[np.float32]] = field(compare=False, repr=False)

    def read(self) -> NDArray[np.float32]:
        return self.compute()

    def release(self) -> None:
        """Nothing is mapped."""


Table = Param | Constant


@dataclass(frozen=True)
class Part:
    """Some outputs of a fused matrix: of each of `groups` groups of outputs, `size` from `start` on."""

    groups: int
    start: int
    size: int

    def of(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """values: [out, ...]"""
        grouped = values.reshape(self.groups, -1, *values.shape[1:])[:, self.start : self.start + self.size]
        return grouped.reshape(self.groups * self.size, *values.shape[1:])


@dataclass(frozen=True)
class Matrix:
    """Weight [out, in] (or [in, out] when transposed, as GPT-2's Conv1D keeps it) and bias [out] of a layer, or a part
    of their outputs."""

    weight: Param
    bias: Param | None
    transposed: bool = False
    part: Part | None = None

    @property
    def out_features(self) -> int:
        return self.part.groups * self.part.size if self.part else self.weight.shape[1 if self.transposed else 0]

    @property
    def in_features(self) -> int:
        return self.weight.shape[0 if self.transposed else 1]

    def read_weight(self) -> NDArray[np.generic]:
        """[out, in]"""
        values = self.weight.read()
        return self._chosen(values.T if self.transposed else values)

    def read_bias(self) -> NDArray[np.generic]:
        """[out]"""
        assert self.bias
        return self._chosen(self.bias.read().reshape(-1))

    def _chosen(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        return self.part.of(values) if self.part else values


@dataclass(frozen=True)
class Embed:
    """scale * tokens[id] + positions[position + offset] + types[type]"""

    tokens: Param
    scale: float
    positions: Table | None
    position_offset: int
    types: Param | None


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of each token's position."""

    rope: Rope


@dataclass(frozen=True)
class Norm:
    """Of each part of a row that is as wide as the weight: of whole rows, or of each head. `shift` is added to the
    weight."""

    weight: Param
    bias: Param | None
    eps: float
    centred: bool
    shift: float = 0.0


@dataclass(frozen=True)
class Linear:
    """inputs: x, and what is added to the result if there are two.

    `parts` side by side; when gated they are (gate, up) and the result is activation(gate) * up. `logits`: the output
    layer, whose weights are kept at 8 bits or more. `exact`: the weights are float32 whatever the others are."""

    parts: tuple[Matrix, ...]
    activation: str = "identity"
    gated: bool = False
    logits: bool = False
    exact: bool = False


@dataclass(frozen=True)
class Experts:
    """inputs: x, the router's logits, and what is added to the result if there are three.

    A token goes through the `top_k` experts that a softmax of its logits finds likeliest, each a gated layer and one
    that follows it. What these give is added up, weighted by their probabilities, scaled to a sum of 1."""

    gate_up: tuple[Linear, ...]
    down: tuple[Linear, ...]
    top_k: int


@dataclass(frozen=True)
class Convert:
    """float32 rows as a linear layer of narrower weights reads them."""


@dataclass(frozen=True)
class Slice:
    """Columns start ... start + width of the input."""

    start: int


@dataclass(frozen=True)
class Activate:
    """after * function(before * x)"""

    function: str
    before: float = 1.0
    after: float = 1.0


@dataclass(frozen=True)
class Add:
    pass


@dataclass(frozen=True)
class Multiply:
    pass


@dataclass(frozen=True)
class RelativeBias:
    """A learned bias for each head and distance: that of distance `key - query = i - n` is row buckets[i] of `weight`.

    weight: [rows, heads]; buckets: 2 n + 1 of them, and distances beyond n are held there."""

    weight: Param
    buckets: tuple[int, ...]


@dataclass(frozen=True)
class Attention:
    """inputs: q, k, v, and the Rotary that turns q and k if there are four. With `cross`, k and v are of source rows;
    once these are stored, q is the only input.

    layer: where in the KV cache keys and values are kept; None where they are not: no later token sees them."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    causal: bool
    layer: int | None
    cross: bool = False
    window: int | None = None
    soft_cap: float | None = None
    alibi_slopes: tuple[float, ...] | None = None
    rounded_alibi: bool = False
    relative_bias: RelativeBias | None = None
    interleaved: bool = False  # of rotary positions


@dataclass(frozen=True)
class Store:
    """inputs: k, v, for the cross-attention `of` of a decoder. Makes nothing that a step could read."""

    of: Attention


@dataclass(frozen=True)
class Gather:
    """The rows whose logits are wanted."""


@dataclass(frozen=True)
class Pool:
    pooling: str


Op = (
    Embed
    | Rotary
    | Norm
    | Linear
    | Experts
    | Convert
    | Slice
    | Activate
    | Add
    | Multiply
    | Attention
    | Store
    | Gather
    | Pool
)


@dataclass(eq=False)
class Tensor:
    """[rows, width], to be computed by `op` from `inputs`. Models only make float32."""

    op: Op
    inputs: tuple[Tensor, ...]
    width: int
    rows: Rows = "tokens"
    dtype: DType = "float32"

    def __add__(self, other: Tensor) -> Tensor:
        return self._elementwise(Add(), other)

    def __mul__(self, other: Tensor) -> Tensor:
        return self._elementwise(Multiply(), other)

    def _elementwise(self, op: Op, other: Tensor) -> Tensor:
        if (self.width, self.rows) != (other.width, other.rows):
            raise ValueError(f"{op}: {self.rows} x {self.width} and {other.rows} x {other.width} differ")
        return Tensor(op, (self, other), self.width, self.rows)
