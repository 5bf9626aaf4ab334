"""A tiny decoder for the commands, standing in for the language model of the package where that is used."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.generation.decoders import make_decoder

from qkv.cli import checkpoints


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    make_decoder("llama", folder)
    return folder


@pytest.fixture
def stand_in(decoder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(checkpoints, "SHAKESPEARE", decoder)
    return decoder
