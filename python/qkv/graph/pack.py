"""Checkpoint tensors to packed weights, one tensor in memory at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.checkpoint import Param
from qkv.graph.tensor import DType, Linear, Matrix, RelativeBias


def as_float32(values: NDArray[np.generic]) -> NDArray[np.float32]:
    """float32 of float16, float32, or bfloat16 bits in uint16."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


class Packer:
    """Packs each weight once; steps that use the same one share it (tied embeddings)."""

    def __init__(self, dtype: str, threads: int) -> None:
        """`dtype`: of packed matrices, "float32", "bfloat16", "int8" or "int4". The output layer and token tables are
        int8 where the others are int4: they lose most by it, and are read a row at a time or once a token."""
        self.dtype = dtype
        self._wide = "int8" if dtype == "int4" else dtype
        self._small = "bfloat16" if dtype in ("int8", "int4") else dtype
        self.threads = threads
        self.nbytes = 0
        self._done: dict[tuple[object, ...], _ext.Weight] = {}

    def activations(self, op: Linear) -> DType:
        """The type of input that the layer's kernel reads."""
        return _ext.activations_of(self._dtype_of(op))

    def matrix(self, op: Linear) -> _ext.Weight:
        """Layers with the same input as one weight: side by side, or gate and up halves."""
        key = parts, gated = op.parts, op.gated
        if key not in self._done:
            out = sum(part.out_features for part in parts)
            width = parts[0].weight.shape[0 if parts[0].transposed else 1]
            weight = _ext.Weight(out, width, self._dtype_of(op), "gated" if gated else "panels")
            at = 0
            for half, part in enumerate(parts):
                place = (0, half) if gated else (at, 0)
                values = part.weight.read()
                weight.fill(values.T if part.transposed else values, *place, self.threads)
                part.weight.release()
                if part.bias:
                    weight.fill_bias(part.bias.read(), *place)
                at += part.out_features
            self._keep(key, weight)
        return self._done[key]

    def small_table(self, rows: Param) -> _ext.Weight:
        """Positions or token types. They are in every token's embedding, often with large values in a few features, and
        are few: as int8 they would cost more accuracy than the whole token table and save 1 % of the memory."""
        return self.table(rows, self._small)

    def table(self, rows: Param, dtype: str | None = None) -> _ext.Weight:
        """Rows to look up; those of a matrix already packed alone are looked up there."""
        tied = (Matrix(rows, None),), False
        key = tied if tied in self._done else (rows,)
        if key not in self._done:
            count, width = rows.shape
            weight = _ext.Weight(count, width, dtype or self._wide, "rows")
            weight.fill(rows.read(), 0, 0, self.threads)
            rows.release()
            self._keep(key, weight)
        return self._done[key]

    def vector(self, values: Param) -> list[float]:
        """A norm's weight or bias."""
        self.nbytes += 4 * values.shape[0]
        return [float(x) for x in as_float32(values.read())]

    def relative_bias(self, bias: RelativeBias) -> NDArray[np.float32]:
        """[heads, distances]"""
        rows = as_float32(bias.weight.read())[list(bias.buckets)]
        self.nbytes += rows.nbytes
        return np.ascontiguousarray(rows.T)

    def _dtype_of(self, op: Linear) -> str:
        return self._wide if op.logits else self.dtype

    def _keep(self, key: tuple[object, ...], weight: _ext.Weight) -> None:
        self._done[key] = weight
        self.nbytes += weight.nbytes
