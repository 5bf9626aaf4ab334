"""Checkpoint tensors to packed weights, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.checkpoint import Param
from qkv.graph.tensor import Matrix


def as_float32(values: NDArray[np.generic]) -> NDArray[np.float32]:
    """float32 of float16, float32, or bfloat16 bits in uint16."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


class Packer:
    """Packs each weight once; steps that use the same one share it (tied embeddings)."""

    def __init__(self, dtype: str, threads: int, on_packed: Callable[[int], None] | None = None) -> None:
        """`dtype`: of packed matrices, "float32" or "bfloat16". `on_packed` hears of bytes read as it goes."""
        self.dtype = dtype
        self.threads = threads
        self.nbytes = 0
        self._on_packed = on_packed
        self._done: dict[tuple[object, ...], _ext.Weight] = {}

    def matrix(self, parts: tuple[Matrix, ...], *, gated: bool) -> _ext.Weight:
        """Layers with the same input as one weight: side by side, or gate and up halves."""
        key = (parts, gated)
        if key not in self._done:
            out = sum(part.out_features for part in parts)
            width = parts[0].weight.shape[0 if parts[0].transposed else 1]
            weight = _ext.Weight(out, width, self.dtype, "gated" if gated else "panels")
            at = 0
            for half, part in enumerate(parts):
                place = (0, half) if gated else (at, 0)
                values = self._read(part.weight)
                weight.fill(values.T if part.transposed else values, *place, self.threads)
                part.weight.release()
                if part.bias:
                    weight.fill_bias(self._read(part.bias), *place)
                at += part.out_features
            self._keep(key, weight)
        return self._done[key]

    def table(self, rows: Param) -> _ext.Weight:
        """Rows to look up; those of a matrix already packed alone are looked up there."""
        tied = (Matrix(rows, None),), False
        key = tied if tied in self._done else (rows,)
        if key not in self._done:
            weight = _ext.Weight(*rows.shape, self.dtype, "rows")
            weight.fill(self._read(rows), 0, 0, self.threads)
            rows.release()
            self._keep(key, weight)
        return self._done[key]

    def vector(self, values: Param) -> NDArray[np.float32]:
        """A norm's weight or bias."""
        self.nbytes += 4 * values.shape[0]
        return as_float32(self._read(values))

    def _read(self, param: Param) -> NDArray[np.generic]:
        values = param.read()
        if self._on_packed:
            self._on_packed(values.nbytes)
        return values

    def _keep(self, key: tuple[object, ...], weight: _ext.Weight) -> None:
        self._done[key] = weight
        self.nbytes += weight.nbytes
