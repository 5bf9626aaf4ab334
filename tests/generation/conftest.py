"""Tiny random decoders with a real tokenizer, opened by qkv and by transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.generation.decoders import BOS, byte_level_bpe, make_decoder
from tokenizers import Tokenizer

import qkv


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return byte_level_bpe()


@dataclass
class Twins:
    """The same checkpoint, opened twice."""

    folder: Path
    ours: qkv.Model
    theirs: Any

    def greedy(self, prompt: list[int], tokens: int, eos: int | None = None) -> list[int]:
        """What transformers continues with; without `eos` it always makes so many tokens."""
        ids = torch.tensor([prompt])
        with torch.no_grad():
            out = self.theirs.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                eos_token_id=eos,
                pad_token_id=BOS,
            )
        return out[0, len(prompt) :].tolist()


@pytest.fixture(scope="session", params=["gpt2", "llama"])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twins:
    folder = tmp_path_factory.mktemp(f"tiny-{request.param}")
    theirs = make_decoder(request.param, folder)
    return Twins(folder, qkv.load(folder, num_threads=2), theirs)


@pytest.fixture
def model(twins: Twins) -> qkv.Model:
    return twins.ours


@pytest.fixture
def pool(model: qkv.Model) -> Iterator[Any]:
    """The model's pages: without memories at first, and all given back in the end."""
    model.kv_pool.clear()
    yield model.kv_pool
    assert model.kv_pool.reserved == 0
    model.kv_pool.clear()
    assert model.kv_pool.pages_in_use == 0
