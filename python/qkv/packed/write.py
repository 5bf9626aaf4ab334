"""Writing a packed file."""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.checkpoint import Checkpoint
from qkv.errors import Error
from qkv.graph.pack import Packer
from qkv.machine import __version__
from qkv.packed.fingerprint import fingerprint
from qkv.packed.header import (
    ALIGNMENT,
    CHECKSUM,
    FORMAT_VERSION,
    METADATA_KEY,
    Header,
    file_entry,
    vector_entry,
    weight_entry,
)

# Written in whole, aligned blocks of at least a huge page, a file is kept in huge pages by the page cache of recent
# kernels (ext4 since Linux 6.16), and is mapped with them.
_BLOCK = 4 << 20

_TAGS = {np.dtype(np.uint8): "U8", np.dtype(np.float32): "F32", np.dtype(np.int32): "I32"}


def write(path: Path, checkpoint: Checkpoint, packer: Packer) -> None:
    """Write what `packer` packed of `checkpoint`, and what was read of its small files.

    The file appears under its name when it is whole; one that was there is replaced.

    Raises:
        qkv.Error: it can't be written, e.g. because the disk is full.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        _write(part, _header(checkpoint, packer), dict(_entries(checkpoint, packer)), packer.threads)
        part.replace(path)
    except OSError as error:
        raise Error(f"{path} could not be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def _header(checkpoint: Checkpoint, packer: Packer) -> Header:
    return Header(
        format_version=FORMAT_VERSION,
        qkv_version=__version__,
        dtype=packer.dtype,
        layout_version=_ext.layout_version,
        layout=_ext.layout_traits(packer.dtype),
        model=fingerprint(checkpoint, checkpoint.files, packer.threads),
        tensors={name: {"dtype": t.dtype, "shape": list(t.shape)} for name, t in checkpoint.tensors.items()},
        missing=sorted(name for name, data in checkpoint.files.items() if data is None),
    )


def _entries(checkpoint: Checkpoint, packer: Packer) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, data in checkpoint.files.items():
        if data is not None:
            yield file_entry(name), np.frombuffer(data, np.uint8)
    for name, values in packer.vectors.items():
        yield vector_entry(name), values
    for name, weight in packer.weights.items():
        for part, found in weight.parts().items():
            if found is not None:
                yield weight_entry(name, part), found


def _write(path: Path, header: Header, entries: dict[str, NDArray[Any]], threads: int) -> None:
    text, gaps = _safetensors_header(header, entries)
    parts: list[NDArray[Any] | bytes] = [text]
    for values, gap in zip(entries.values(), gaps, strict=True):
        parts += values, bytes(gap)
    with path.open("x+b") as file:
        _write_blocks(file, parts)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            checksum = _ext.checksum(np.frombuffer(content, np.uint8), threads)
        file.write(checksum.to_bytes(8, "little"))
        file.flush()
        os.fsync(file.fileno())


def _write_blocks(file: BinaryIO, parts: Iterable[NDArray[Any] | bytes]) -> None:
    block = bytearray()
    for part in parts:
        rest = memoryview(part if isinstance(part, bytes) else part.data).cast("B")
        while rest:
            room = _BLOCK - len(block)
            block += rest[:room]
            rest = rest[room:]
            if len(block) == _BLOCK:
                file.write(block)
                block.clear()
    file.write(block)
    file.flush()


def _safetensors_header(header: Header, entries: dict[str, NDArray[Any]]) -> tuple[bytes, list[int]]:
    """The beginning of the file, and how many bytes of 0 follow each entry, so that the next one is aligned.

    The format allows no holes, so these bytes are entries too."""
    notes = {key: value for key, value in dataclasses.asdict(header).items() if key != "where"}
    table: dict[str, Any] = {"__metadata__": {METADATA_KEY: json.dumps(notes)}}
    gaps = []
    at = 0

    def place(name: str, tag: str, count: int, nbytes: int) -> None:
        nonlocal at
        table[name] = {"dtype": tag, "shape": [count], "data_offsets": [at, at + nbytes]}
        at += nbytes

    for name, values in entries.items():
        place(name, _TAGS[values.dtype], values.size, values.nbytes)
        gaps.append(-at % ALIGNMENT)
        if gaps[-1]:
            place(f"gap {len(gaps)}", "U8", gaps[-1], gaps[-1])
    place(CHECKSUM, "U8", 8, 8)
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, gaps
