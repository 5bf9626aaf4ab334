"""Checkpoint tensors to packed weights, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.checkpoint import Param
from qkv.graph.tensor import Constant, DType, Linear, Matrix, RelativeBias, Table


def as_float32(values: NDArray[np.generic]) -> NDArray[np.float32]:
    """float32 of float16, float32, or bfloat16 bits in uint16."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


class Packer:
    """Packs each weight once; steps that use the same one share it (tied embeddings).

    Attributes:
        dtype: of packed matrices.
        weights, vectors: what was packed and read, by names that say which tensors it was made of.
        nbytes: bytes of all of it.
    """

    def __init__(self, dtype: str, threads: int, progress: Callable[[int], object] = lambda nbytes: None) -> None:
        """`dtype`: of packed matrices, "float32", "bfloat16", "int8" or "int4". The output layer and token tables
        are int8 where the others are int4: they lose most by it, and are read a row at a time or once a token.

        `progress` is called with the size of each checkpoint tensor that is done."""
        self.dtype = dtype
        self._wide = "int8" if dtype == "int4" else dtype
        self._small = "bfloat16" if dtype in ("int8", "int4") else dtype
        self.threads = threads
        self._progress = progress
        self.weights: dict[str, _ext.Weight] = {}
        self.vectors: dict[str, NDArray[np.float32]] = {}
        self._read: set[str] = set()
        self._tied: dict[str, str] = {}  # tensor -> the matrix that is all of it

    @property
    def nbytes(self) -> int:
        return sum(w.nbytes for w in self.weights.values()) + sum(v.nbytes for v in self.vectors.values())

    def activations(self, op: Linear) -> DType:
        """The type of input that the layer's kernel reads."""
        return _ext.activations_of(self._dtype_of(op))

    def matrix(self, op: Linear) -> _ext.Weight:
        """Layers with the same input as one weight: side by side, or gate and up halves."""
        name = _matrix_name(op.parts, op.gated)
        if name not in self.weights:
            self.weights[name] = self._matrix(name, op)
        first = op.parts[0]
        if len(op.parts) == 1 and not first.transposed and not first.part:
            self._tied[first.weight.name] = name
        return self.weights[name]

    def small_table(self, rows: Table) -> _ext.Weight:
        """Positions or token types. They are in every token's embedding, often with large values in a few features, and
        are few: as int8 they would cost more accuracy than the whole token table and save 1 % of the memory."""
        return self.table(rows, self._small)

    def table(self, rows: Table, dtype: str | None = None) -> _ext.Weight:
        """Rows to look up; those of a matrix already packed alone are looked up there."""
        name = self._tied.get(rows.name, f"rows({rows.name})")
        if name not in self.weights:
            self.weights[name] = self._table(name, rows, dtype or self._wide)
        return self.weights[name]

    def vector(self, values: Param, shift: float = 0.0) -> list[float]:
        """A norm's weight or bias; `shift` is added."""
        found = self._values(values)
        return [float(x) for x in (found + np.float32(shift) if shift else found)]

    def _values(self, param: Param) -> NDArray[np.float32]:
        """Of a small tensor, of one dimension."""
        if param.name not in self.vectors:
            self.vectors[param.name] = self._vector(param)
        return self.vectors[param.name]

    def _matrix(self, name: str, op: Linear) -> _ext.Weight:
        weight = _ext.Weight(*self._matrix_shape(op))
        at = 0
        for half, part in enumerate(op.parts):
            place = (0, half) if op.gated else (at, 0)
            weight.fill(part.read_weight(), *place, self.threads)
            self._done(part.weight)
            if part.bias:
                weight.fill_bias(part.read_bias(), *place)
                self._done(part.bias)
            at += part.out_features
        return weight

    def _table(self, name: str, rows: Table, dtype: str) -> _ext.Weight:
        count, width = rows.shape
        weight = _ext.Weight(count, width, dtype, "rows")
        weight.fill(rows.read(), 0, 0, self.threads)
        self._done(rows)
        return weight

    def _vector(self, values: Param) -> NDArray[np.float32]:
        found = as_float32(values.read()).reshape(-1)
        self._done(values)
        return found

    def _matrix_shape(self, op: Linear) -> tuple[int, int, str, str]:
        out = sum(part.out_features for part in op.parts)
        return out, op.parts[0].in_features, self._dtype_of(op), "gated" if op.gated else "panels"

    def relative_bias(self, bias: RelativeBias) -> NDArray[np.float32]:
        """[heads, distances]"""
        rows = self._values(bias.weight).reshape(bias.weight.shape)[list(bias.buckets)]
        return np.ascontiguousarray(rows.T)

    def _dtype_of(self, op: Linear) -> str:
        return "float32" if op.exact else self._wide if op.logits else self.dtype

    def _done(self, table: Table) -> None:
        size = 0 if isinstance(table, Constant) or table.name in self._read else table.read().nbytes
        self._read.add(table.name)
        table.release()
        self._progress(size)


def _matrix_name(parts: tuple[Matrix, ...], gated: bool) -> str:
    """E.g. linear(a.weight.T, a.bias) or gated(gate.weight, up.weight)."""
    names = [
        name for matrix in parts for name in (_weight_name(matrix), matrix.bias.name if matrix.bias else "") if name
    ]
    return f"{'gated' if gated else 'linear'}({', '.join(names)})"


def _weight_name(matrix: Matrix) -> str:
    part = matrix.part
    some = f"[{part.start}:{part.start + part.size} of {part.groups}]" if part else ""
    return matrix.weight.name + ".T" * matrix.transposed + some
