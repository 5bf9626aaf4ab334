"""What a packed file says about itself, and the names of what it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qkv.checkpoint import Config

# Goes up whenever the meaning of a packed file changes, but for the bytes of weights: these have _ext.layout_version.
FORMAT_VERSION = 1
METADATA_KEY = "qkv"  # of the safetensors header: holds the fields of Header as JSON
CHECKSUM = "checksum"  # the last tensor, [8] bytes: of everything before it
ALIGNMENT = 64  # bytes, of every tensor: the kernels' cache lines


@dataclass
class Header(Config):
    """
    Attributes:
        dtype: of the weight matrices.
        layout_version, layout: what the kernels must agree on to read the weights.
        model: fingerprint of the checkpoint that was packed.
        tensors: type and shape of each tensor of that checkpoint, by name.
        missing: files that were looked for in the checkpoint, and not there.
    """

    format_version: int
    qkv_version: str
    dtype: str
    layout_version: int
    layout: str
    model: str
    tensors: dict[str, Any]
    missing: list[str] = field(default_factory=list)

    def tensor(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Type and shape of a tensor of the checkpoint."""
        entry = self.tensors[name]
        sound = (
            isinstance(entry, dict)
            and isinstance(entry.get("dtype"), str)
            and isinstance(entry.get("shape"), list)
            and all(type(size) is int and size >= 0 for size in entry["shape"])
        )
        self.require(sound, f"the entry of tensor {name!r} is broken")
        return entry["dtype"], tuple(entry["shape"])


def file_entry(name: str) -> str:
    return f"file: {name}"


def vector_entry(name: str) -> str:
    return f"vector: {name}"


def weight_entry(name: str, part: str) -> str:
    return f"{part}: {name}"
