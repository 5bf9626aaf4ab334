"""Weights from a packed file, where `Packer` would make them from a checkpoint."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.checkpoint import Param
from qkv.errors import CheckpointError, Error
from qkv.graph.pack import Packer
from qkv.graph.tensor import Linear, Table
from qkv.packed.file import PackedFile
from qkv.packed.header import vector_entry, weight_entry


class PackedWeights(Packer):
    """The weights of a packed file: panels stay in the mapped file, everything else is copied."""

    def __init__(self, file: PackedFile, threads: int) -> None:
        super().__init__(file.header.dtype, threads)
        self._file = file

    def _matrix(self, name: str, op: Linear) -> _ext.Weight:
        return self._weight(name, self._matrix_shape(op), any(part.bias for part in op.parts))

    def _table(self, name: str, rows: Table, dtype: str) -> _ext.Weight:
        count, width = rows.shape
        return self._weight(name, (count, width, dtype, "rows"), False)

    def _vector(self, values: Param) -> NDArray[np.float32]:
        found = self._file.array(vector_entry(values.name), np.float32)
        if found.size != (count := math.prod(values.shape)):
            raise CheckpointError(
                f"{self._file.path}: {values.name} has {found.size} values, not {count}; pack the model again"
            )
        return found

    def _weight(self, name: str, shape: tuple[int, int, str, str], bias: bool) -> _ext.Weight:
        def part(kind: str, dtype: type[np.generic]) -> NDArray[np.generic]:
            return self._file.array(weight_entry(name, kind), dtype)

        quantised = shape[2] in ("int8", "int4")
        parts = {
            "panels": part("panels", np.uint8),
            "scales": part("scales", np.float32) if quantised else None,
            "offsets": part("offsets", np.int32) if quantised else None,
            "bias": part("bias", np.float32) if bias else None,
        }
        try:
            return _ext.Weight.from_parts(*shape, **parts)  # type: ignore[arg-type]
        except Error as error:
            raise CheckpointError(f"{self._file.path}: {name}: {error}; pack the model again") from error
