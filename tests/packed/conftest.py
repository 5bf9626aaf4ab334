"""Packed files, and a way to edit one and seal it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.generation.decoders import make_decoder

import qkv
from qkv import _ext


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 with a tokenizer."""
    folder = tmp_path_factory.mktemp("packed-decoder")
    make_decoder("gpt2", folder)
    return folder


@pytest.fixture(scope="session")
def packed(decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It as int8."""
    file = tmp_path_factory.mktemp("packed") / "tiny.qkv"
    qkv.pack(decoder, file, dtype="int8")
    return file


@pytest.fixture
def edit(packed: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, Any], dict[str, Any]], None]], Path]:
    """edit(change) -> a copy of the packed file with change(safetensors header, qkv's own header) applied, and a
    checksum that fits: what somebody with the knowledge and bad intentions could hand over."""

    def edited(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
        content = packed.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        own = json.loads(header["__metadata__"]["qkv"])
        change(header, own)
        if "__metadata__" in header:
            header["__metadata__"]["qkv"] = json.dumps(own)
        text = json.dumps(header).encode()
        text += b" " * (-(8 + len(text)) % 64)
        body = len(text).to_bytes(8, "little") + text + content[start:-8]
        file = tmp_path / "edited.qkv"
        file.write_bytes(body + _ext.checksum(np.frombuffer(body, np.uint8), 1).to_bytes(8, "little"))
        return file

    return edited
