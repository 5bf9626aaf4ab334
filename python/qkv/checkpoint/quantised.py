"""Checkpoints whose weights were quantised by others: refused, because their formats are not read."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qkv.checkpoint.tensors import TensorInfo
from qkv.errors import CheckpointError

_INSTEAD = (
    "quantised weights are not supported. Use the float32, float16 or bfloat16 checkpoint that they were made from: "
    'qkv quantises it itself with dtype="int8" or "int4"'
)

# The last part of the names of tensors that only these formats have.
_NAMES = {
    "qweight": "GPTQ or AWQ",
    "qzeros": "GPTQ or AWQ",
    "SCB": "bitsandbytes",
    "weight_format": "bitsandbytes",
    "absmax": "bitsandbytes",
    "quant_map": "bitsandbytes",
    "bitsandbytes__nf4": "bitsandbytes",
    "bitsandbytes__fp4": "bitsandbytes",
}


def refuse_quantised_config(config: Mapping[str, Any], where: Path) -> None:
    """Raise CheckpointError when a config.json says that weights are quantised."""
    for key in ("quantization_config", "compression_config"):
        if value := config.get(key):
            method = value.get("quant_method") if isinstance(value, dict) else None
            by = f" by {method}" if isinstance(method, str) else ""
            raise CheckpointError(f"{where}: {_INSTEAD}. Found {key}{by}: {reprlib.repr(value)}")


def refuse_quantised_tensors(tensors: Mapping[str, TensorInfo]) -> None:
    """Raise CheckpointError when a tensor's name or type says that weights are quantised."""
    for name, info in tensors.items():
        form = "float8" if info.dtype.startswith("F8_") else _NAMES.get(name.rpartition(".")[2])
        if form:
            raise CheckpointError(f"{info.file}: the tensor {name!r} ({info.dtype}) is {form}'s; {_INSTEAD}")
