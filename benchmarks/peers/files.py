"""Where a checkpoint's conversions lie: beside its folder, under its name."""

from __future__ import annotations

import json
from pathlib import Path

# Weight types of the benchmarks -> llama.cpp's names.
GGUF_TYPES = {"bfloat16": "bf16", "int8": "q8_0", "int4": "q4_0"}


def onnx(checkpoint: Path, kind: str) -> Path:
    """kind: "exported" as PyTorch wrote it; "float32" and "int8" with ONNX Runtime's own fusions."""
    return checkpoint.with_name(f"{checkpoint.name}.{kind}.onnx")


def ctranslate2(checkpoint: Path, dtype: str) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.ctranslate2-{dtype}")


def gguf(checkpoint: Path, dtype: str) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.{GGUF_TYPES[dtype]}.gguf")


def is_encoder(checkpoint: Path) -> bool:
    return config(checkpoint)["model_type"] == "bert"


def is_encoder_decoder(checkpoint: Path) -> bool:
    return bool(config(checkpoint).get("is_encoder_decoder"))


def config(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
