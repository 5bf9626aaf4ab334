"""Opening a packed file: checked, then mapped."""

from __future__ import annotations

import reprlib
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.checkpoint import Checkpoint, TensorInfo
from qkv.checkpoint.folder import parse_object
from qkv.checkpoint.tensors import Shard
from qkv.errors import CheckpointError
from qkv.packed.fingerprint import fingerprint
from qkv.packed.header import CHECKSUM, FORMAT_VERSION, METADATA_KEY, Header, file_entry

_AGAIN = "pack the model again with `qkv pack`"
_TAGS = {np.dtype(np.uint8): "U8", np.dtype(np.float32): "float32", np.dtype(np.int32): "I32"}  # as TensorInfo has it
_DTYPES = ("float32", "bfloat16", "int8", "int4")


class PackedFile(Checkpoint):
    """A packed model, opened. It stands for the checkpoint that was packed: the same configuration, small files, and
    names and shapes of tensors, but their values are only there as packed weights.

    Attributes:
        header: what the file says about itself.
        nbytes: size of the file.
    """

    def __init__(self, path: Path, shard: Shard, header: Header) -> None:
        self.header = header
        self.nbytes = shard.content().size
        self._packed = shard
        super().__init__(path)
        self._shards.append(shard)
        self.tensors = MappingProxyType({name: self._info(name) for name in header.tensors})

    @classmethod
    def open_file(cls, path: Path, threads: int, *, in_memory: bool = False) -> PackedFile:
        """Check all bytes of a packed file, and map it, or copy it to memory.

        Raises:
            CheckpointError: it is no packed file, of another version, or damaged.
        """
        if not path.is_file():
            raise CheckpointError(f"{path} is not a regular file; expected one that `qkv pack` wrote")
        try:
            shard = Shard(path, in_memory=in_memory)
        except CheckpointError as error:
            raise CheckpointError(f"{path} is no packed model, or not all of one; {_AGAIN}. {error}") from error
        try:
            shard.ask_for_huge_pages()
            header = _header(shard)
            _check_sum(shard, threads)
            return cls(path, shard, header)
        except CheckpointError:
            shard.close()
            raise

    def describe(self) -> dict[str, Any]:
        """What the file is, for people."""
        header = self.header
        return {
            "file": str(self.path),
            "bytes": self.nbytes,
            "model_type": self.config.get("model_type"),
            "dtype": header.dtype,
            "layout": header.layout,
            "layout_version": header.layout_version,
            "format_version": header.format_version,
            "qkv_version": header.qkv_version,
            "model": header.model,
        }

    def check_layout(self) -> None:
        """Raise CheckpointError unless the kernels in use read the weights as they are packed."""
        header, traits = self.header, _ext.layout_traits(self.header.dtype)
        if header.layout_version != _ext.layout_version:
            raise CheckpointError(
                f"{self.path} holds weights in version {header.layout_version} of their layout; "
                f"this qkv reads version {_ext.layout_version}: {_AGAIN}"
            )
        if header.layout != traits:
            raise CheckpointError(
                f"{self.path} was packed for another instruction set: it has {header.layout}, but the kernels for "
                f"{_ext.chosen_isa()['isa']} read {traits}; {_AGAIN} on this machine"
            )

    def check_source(self, checkpoint: Checkpoint, threads: int) -> None:
        """Raise CheckpointError unless the file was packed from `checkpoint` as it is now."""
        files = {name: checkpoint.file(name) for name in (*self.file_names(), *self.header.missing)}
        if fingerprint(checkpoint, files, threads) != self.header.model:
            raise CheckpointError(
                f"{self.path} is stale: it was packed from another model than {checkpoint.path} holds; {_AGAIN}"
            )

    def file(self, name: str) -> bytes | None:
        """The contents of a file of the packed checkpoint; None when it had no such file.

        Raises:
            CheckpointError: the qkv that packed the checkpoint did not look for this file.
        """
        if name in self.header.missing:
            return None
        entry = file_entry(name)
        if entry not in self._packed.tensors:
            raise CheckpointError(
                f"{self.path} was packed by qkv {self.header.qkv_version}, which left {name!r} out; {_AGAIN}"
            )
        return self.array(entry, np.uint8).tobytes()

    def file_names(self) -> list[str]:
        """Files of the checkpoint that were packed."""
        prefix = file_entry("")
        return [name.removeprefix(prefix) for name in self._packed.tensors if name.startswith(prefix)]

    def array(self, entry: str, dtype: type[np.generic]) -> NDArray[Any]:
        """The values of an entry, [n], read-only and mapped.

        Raises:
            CheckpointError: there is no such entry, or it has another type.
        """
        info = self._packed.tensors.get(entry)
        if info is None:
            raise CheckpointError(f"{self.path} does not hold {entry!r}: it belongs to another model; {_AGAIN}")
        if info.dtype != _TAGS[np.dtype(dtype)]:
            raise CheckpointError(f"{self.path}: {entry!r} has type {info.dtype}; expected {np.dtype(dtype)}")
        values = self._packed.raw(info).view(dtype)
        if not values.flags.aligned:
            raise CheckpointError(f"{self.path}: {entry!r} is not aligned; {_AGAIN}")
        return values

    def _info(self, name: str) -> TensorInfo:
        dtype, shape = self.header.tensor(name)
        return TensorInfo(name, self.path, dtype, shape, 0, 0)


def _header(shard: Shard) -> Header:
    text = shard.metadata.get(METADATA_KEY)
    if text is None:
        raise CheckpointError(
            f"{shard.path} is a safetensors file, but not one that `qkv pack` wrote; to open a checkpoint, "
            "give the folder that it lies in"
        )
    raw = parse_object(text.encode(), shard.path)
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{shard.path} has version {reprlib.repr(version)} of the packed format; "
            f"this qkv reads version {FORMAT_VERSION}: {_AGAIN}"
        )
    header = Header.from_dict(raw, str(shard.path))
    header.require(header.dtype in _DTYPES, f"its dtype is {header.dtype!r}; expected {', '.join(_DTYPES)}")
    return header


def _check_sum(shard: Shard, threads: int) -> None:
    """The checksum is the last thing in the file and covers all before it, the safetensors header included."""
    content, info = shard.content(), shard.tensors.get(CHECKSUM)
    if info is None or info.nbytes != 8 or info.offset + 8 != content.size:
        raise CheckpointError(f"{shard.path} has no checksum at its end; {_AGAIN}")
    if _ext.checksum(content[:-8], threads) != int.from_bytes(content[-8:].tobytes(), "little"):
        raise CheckpointError(f"{shard.path} is damaged: its contents do not give its checksum; {_AGAIN}")
