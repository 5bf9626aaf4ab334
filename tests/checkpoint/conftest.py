"""A small checkpoint folder, made by the libraries that make real ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "bert.embeddings.weight": torch.randn(7, 8, generator=generator),
        "bert.encoder.layer.0.query.weight": torch.randn(8, 8, generator=generator, dtype=torch.bfloat16),
        "bert.encoder.layer.0.query.bias": torch.randn(8, generator=generator, dtype=torch.float16),
        "bert.encoder.layer.1.query.weight": torch.randn(8, 8, generator=generator),
        "bert.encoder.layer.10.query.weight": torch.randn(8, 8, generator=generator),
        "classifier.scale": torch.tensor(1.5),
    }


@pytest.fixture
def save_json() -> Callable[[Path, Any], Path]:
    """Write a value, or a string as it is, and make the folders above it."""

    def save(path: Path, value: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    return save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint folder with a config.json, and no weights yet."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "bert", "hidden_size": 8}')
    return folder


@pytest.fixture
def single(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A checkpoint folder with all tensors in model.safetensors."""
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def sharded(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A checkpoint folder with the tensors in two shards and an index."""
    weight_map: dict[str, str] = {}
    names = list(tensors)
    for i, part in enumerate((names[:3], names[3:]), start=1):
        file = f"model-{i:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
