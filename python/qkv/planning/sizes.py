"""Lowering without weights: a packer that only knows sizes, and what stands for the program."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.checkpoint import Param
from qkv.graph.pack import Packer
from qkv.graph.tensor import Linear, Table

# Neighbours in a column of a panel, and the bytes that they take together (csrc/cpu/weight.h).
_GROUPS = {"float32": (1, 4), "bfloat16": (2, 4), "int8": (4, 4), "int4": (32, 18)}
_NBYTES = {"float32": 4, "bfloat16": 2, "int8": 1}  # of values in a buffer


@dataclass(frozen=True)
class PlannedWeight:
    """The size of an `_ext.Weight` [out, in], for the instruction set in use."""

    out_features: int
    in_features: int
    dtype: str
    layout: str
    bias: bool

    @property
    def nbytes(self) -> int:
        panel = 1 if self.layout == "rows" else _ext.chosen_isa()["panel"]
        halves = 2 if self.layout == "gated" else 1  # each fills its half of every panel
        columns = halves * _round_up(self.out_features // halves, max(1, panel // halves))
        group, group_nbytes = (1, 2) if (self.layout, self.dtype) == ("rows", "bfloat16") else _GROUPS[self.dtype]
        quantised = self.dtype in ("int8", "int4")
        beside = 4 * (2 * quantised + self.bias)  # scale, offset and bias of a column
        return columns * (_round_up(self.in_features, group) // group * group_nbytes + beside)


class PlannedPacker(Packer):
    """Decides what becomes of each tensor as `Packer` does, but makes nothing."""

    def __init__(self, dtype: str) -> None:
        super().__init__(dtype, threads=1)

    def size(self, op: Linear) -> PlannedWeight:
        return cast(PlannedWeight, self.matrix(op))

    def _matrix(self, name: str, op: Linear) -> _ext.Weight:
        return _stand_in(PlannedWeight(*self._matrix_shape(op), bias=any(part.bias for part in op.parts)))

    def _table(self, name: str, rows: Table, dtype: str) -> _ext.Weight:
        count, width = rows.shape
        return _stand_in(PlannedWeight(count, width, dtype, "rows", bias=False))

    def vector(self, values: Param, shift: float = 0.0) -> list[float]:
        self._values(values)
        return []

    def _vector(self, values: Param) -> NDArray[np.float32]:
        return np.broadcast_to(np.float32(0), math.prod(values.shape))  # one number in memory


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _stand_in(weight: PlannedWeight) -> _ext.Weight:
    return cast(_ext.Weight, weight)


class PlannedProgram:
    """Takes every step and keeps none.

    Attributes:
        token_nbytes: memory that a run needs for each of its tokens.
    """

    def __init__(self) -> None:
        self.token_nbytes = 0
        self._buffers = 0

    def buffer(self, width: int, rows: str, dtype: str = "float32") -> int:
        if rows == "tokens":
            self.token_nbytes += width * _NBYTES[dtype]
        self._buffers += 1
        return self._buffers - 1

    def __getattr__(self, step: str) -> Callable[..., None]:
        if step not in vars(_ext.Program):
            raise AttributeError(step)
        return lambda *arguments, **options: None
