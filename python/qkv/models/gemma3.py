"""Gemma 3 with an image encoder, as its checkpoints from 4 billion parameters on are published: the language model
alone. Images are not read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qkv.checkpoint import Weights
from qkv.errors import CheckpointError
from qkv.graph import Graph, Tensor
from qkv.models import gemma3_text


@dataclass(kw_only=True)
class Config(gemma3_text.Config):
    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str = "config.json") -> Config:
        """Of text_config; some keys are those of the whole model."""
        text = raw.get("text_config")
        if not isinstance(text, dict):
            raise CheckpointError(f"{where}: text_config is {text!r:.60}; expected an object")
        whole = {key: raw[key] for key in ("tie_word_embeddings", "bos_token_id", "eos_token_id") if key in raw}
        return super().from_dict(text | whole, where)


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    return gemma3_text.build(g, c, root["language_model"])
