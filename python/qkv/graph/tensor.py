"""The nodes of a graph. A `Tensor` stands for rows of float32 values; its `op` says how they are made.

Ops are plain descriptions: `build` makes them, `fuse` rewrites them, `lower` turns each into one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qkv.checkpoint import Param

Rows = Literal["tokens", "sequences", "logits"]  # what a buffer has one row for
DType = Literal["float32", "bfloat16", "int8"]  # of a buffer


@dataclass(frozen=True)
class Matrix:
    """Weight [out, in] (or [in, out] when transposed, as GPT-2's Conv1D keeps it) and bias [out] of a layer."""

    weight: Param
    bias: Param | None
    transposed: bool = False

    @property
    def out_features(self) -> int:
        return self.weight.shape[1 if self.transposed else 0]

    @property
    def in_features(self) -> int:
        return self.weight.shape[0 if self.transposed else 1]


@dataclass(frozen=True)
class Embed:
    tokens: Param
    positions: Param | None
    position_offset: int
    types: Param | None


@dataclass(frozen=True)
class Rotary:
    """Cosines and sines of each token's position."""

    inverse_frequencies: tuple[float, ...]


@dataclass(frozen=True)
class Norm:
    weight: Param
    bias: Param | None
    eps: float
    centred: bool


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
    function: str


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
    """inputs: q, k, v, and the Rotary that turns q and k if there are four."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    causal: bool
    layer: int
    window: int | None = None
    soft_cap: float | None = None
    alibi_slopes: tuple[float, ...] | None = None
    relative_bias: RelativeBias | None = None


@dataclass(frozen=True)
class Gather:
    """The rows whose logits are wanted."""


@dataclass(frozen=True)
class Pool:
    pooling: str


Op = Embed | Rotary | Norm | Linear | Experts | Convert | Slice | Activate | Add | Multiply | Attention | Gather | Pool


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
