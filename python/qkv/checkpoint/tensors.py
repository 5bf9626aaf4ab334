"""One safetensors file, checked and mapped.

Format: 8 bytes of header length (little endian), a JSON header that gives each tensor's type, shape and byte
range, then the bytes. See https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import mmap
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from qkv.errors import CheckpointError

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}

# NumPy has no bfloat16: its raw bits are read as uint16.
_STORAGE: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
}

# NumPy 1 allows no more; weights have five at most.
_MAX_DIMENSIONS = 32

# Bytes read in one call, which Ctrl-C can't interrupt.
_PIECE = 64 << 20


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies.

    Attributes:
        name: its name in the checkpoint.
        file: the safetensors file that holds it.
        dtype: ``float32``, ``float16`` or ``bfloat16``; other types keep their safetensors tag, e.g. ``I64``.
        shape: its shape; ``()`` is a scalar.
        offset: its first byte, counted from the start of the file.
        nbytes: its size in bytes.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class Shard:
    """A safetensors file, mapped read-only.

    Attributes:
        tensors: where each tensor lies, by name.
        metadata: the header's own notes.

    The file must not be shortened while it is open: the operating system would end the process at the next
    read of a page that is gone.

    Raises:
        CheckpointError: the file cannot be opened or is not a sound safetensors file.
    """

    def __init__(self, path: Path, *, in_memory: bool = False) -> None:
        """`in_memory`: a copy of the file, instead of a mapping."""
        self.path = path
        _validate(path)
        try:
            with path.open("rb") as file:
                self._map = _copy(file) if in_memory else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            start = 8 + int.from_bytes(self._map[:8], "little")
            header = json.loads(self._map[8:start], object_pairs_hook=_unique)
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is not a sound safetensors file: {error}") from error
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        self.tensors = {name: _info(name, path, entry, start) for name, entry in header.items()}

    def read(self, info: TensorInfo) -> np.ndarray:
        """A read-only array over the mapped bytes of a tensor; see :meth:`Checkpoint.read`."""
        storage = _STORAGE.get(info.dtype)
        if storage is None:
            raise CheckpointError(
                f"{info.file}: tensor {info.name!r} has type {info.dtype}; expected {', '.join(_STORAGE)}"
            )
        if 0 in info.shape or len(info.shape) > _MAX_DIMENSIONS:
            raise CheckpointError(
                f"{info.file}: tensor {info.name!r} has shape {list(info.shape)}; "
                f"expected at least one element and at most {_MAX_DIMENSIONS} dimensions"
            )
        count = info.nbytes // storage.itemsize
        array: np.ndarray = np.frombuffer(self._map, storage, count, info.offset).reshape(info.shape)
        if not array.flags.aligned:  # the header's length need not be a multiple of the item's
            array = array.copy()
            array.flags.writeable = False
        return array

    def content(self) -> np.ndarray:
        """The whole file: uint8, read-only."""
        content = np.frombuffer(self._map, np.uint8)
        content.flags.writeable = False
        return content

    def raw(self, info: TensorInfo) -> np.ndarray:
        """The mapped bytes of a tensor, whatever their type: uint8, read-only."""
        return self.content()[info.offset : info.offset + info.nbytes]

    def ask_for_huge_pages(self) -> None:
        """They make reading all of a large file, over and over, faster. A kernel that has none for files ignores it."""
        _ask_for_huge_pages(self._map)

    def release(self, info: TensorInfo) -> None:
        """Give the memory of a tensor's pages back; a later read fetches them from the file again."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        # Only whole pages: the first and last are shared with the tensor's neighbours.
        first = -(-info.offset // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (info.offset + info.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first:
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def close(self) -> None:
        """Unmap the file, now or when the last array that looks at it is gone."""
        try:
            self._map.close()
        except BufferError:  # arrays still look at it: they hold the map, and free it with them
            del self._map


def _copy(file: BinaryIO) -> mmap.mmap:
    """The contents of a file in anonymous memory, in huge pages if there are any."""
    size = os.fstat(file.fileno()).st_size
    memory = mmap.mmap(-1, size)
    _ask_for_huge_pages(memory)
    view = memoryview(memory)
    for start in range(0, size, _PIECE):
        piece = view[start : start + _PIECE]
        if file.readinto(piece) != len(piece):  # type: ignore[attr-defined]
            raise ValueError("the file became shorter while it was read")
    return memory


def _ask_for_huge_pages(memory: mmap.mmap) -> None:
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)


def _validate(path: Path) -> None:
    # safe_open refuses headers that are too long, cut off or ill-typed, and byte ranges that overflow,
    # overlap, leave holes, lie outside the file or do not match type and shape.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a sound safetensors file, perhaps an incomplete download: {error}"
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, value in pairs:
        if name in entries:  # safe_open lets the last one win
            raise ValueError(f"the header names {name!r} twice")
        entries[name] = value
    return entries


def _info(name: str, file: Path, entry: dict[str, Any], start: int) -> TensorInfo:
    begin, end = entry["data_offsets"]
    dtype = DTYPES.get(entry["dtype"], entry["dtype"])
    return TensorInfo(name, file, dtype, tuple(entry["shape"]), start + begin, end - begin)
