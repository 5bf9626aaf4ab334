"""Stands for a checkpoint of which there is only the configuration: it has every tensor that a model file asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qkv.checkpoint import Config, Param, TensorInfo, Weights
from qkv.errors import CheckpointError

_MASKED_LM = (
    "cls.predictions.transform", "cls.predictions.bias",  # BERT
    "lm_head.dense", "lm_head.layer_norm", "lm_head.bias",  # RoBERTa
    "predictions.dense", "predictions.LayerNorm", "predictions.bias",  # ALBERT
    "vocab_transform", "vocab_layer_norm", "vocab_projector.bias",  # DistilBERT
)  # fmt: skip
_POOLERS = ("bert.pooler", "albert.pooler")

# How names of classes in `architectures` end -> tensors and scopes that not every class of a family has.
_PARTS = {
    "ForMaskedLM": _MASKED_LM,
    "ForPreTraining": (*_MASKED_LM, *_POOLERS),
    "ForSequenceClassification": ("classifier", "pre_classifier", "score", "classification_head", *_POOLERS),
    "ForTokenClassification": ("classifier",),
    "ForQuestionAnswering": ("qa_outputs",),
    "ForConditionalGeneration": ("decoder", "final_logits_bias"),
    "MTModel": ("final_logits_bias",),
}

# And output layers, which a checkpoint only holds where they are not the token table ("tied"); embed_out is GPT-NeoX's.
_OUTPUT_LAYERS = {
    **dict.fromkeys(
        ("ForMaskedLM", "ForPreTraining"),
        ("cls.predictions.decoder", "lm_head.decoder", "predictions.decoder", "vocab_projector.weight"),
    ),
    **dict.fromkeys(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MTModel"), ("lm_head", "embed_out")),
}

# More than the 47,000 of DeepSeek-V3's 256 experts a layer: a configuration that asks for more is not meant.
_MOST_TENSORS = 100_000


class PlannedTensors:
    """What a complete checkpoint with this configuration would hold, as far as a model asks for it.

    Attributes:
        path: the folder of the configuration.
        config: config.json. The class of transformers under `architectures` says which head the checkpoint has.
        tensors: what was asked for so far, by name; a tensor that is used twice is there once.
        is_base: the class has no head: its tensors are saved without the prefix that they have below one.
        is_shared: encoder and decoder have one token table.
    """

    def __init__(self, path: Path, config: dict[str, Any], typed: Config) -> None:
        """`typed`: the same configuration, with the defaults of its family."""
        self.path = path
        self.config = config
        self._found: dict[str, TensorInfo] = {}
        self._scopes: set[str] = set()
        names = config.get("architectures")
        name = str(names[0]) if isinstance(names, list) and names else ""
        self.is_base = name.endswith("Model") and not name.endswith(("LMHeadModel", "MTModel"))
        self.is_shared = bool(getattr(typed, "share_encoder_decoder_embeddings", True))
        # transformers 5 calls T5's version 1.1 tied, which has an output layer of its own, and does not scale outputs
        tied = bool(getattr(typed, "tie_word_embeddings", True)) and config.get("scale_decoder_outputs") is not False
        tables = (_PARTS,) if tied else (_PARTS, _OUTPUT_LAYERS)
        self._parts = {part for table in tables for end, parts in table.items() if name.endswith(end) for part in parts}
        if self.is_base:
            self._parts.add("pooler")
        if self.is_base and not name.endswith("EncoderModel"):
            self._parts.add("decoder")

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._found

    @property
    def names(self) -> list[str]:
        return sorted(self._found)

    @property
    def used(self) -> set[str]:
        return set(self._found)

    @property
    def parameters(self) -> int:
        return sum(math.prod(info.shape) for info in self._found.values())

    def add(self, name: str, shape: tuple[int, ...]) -> None:
        """A model asks for this tensor.

        Raises:
            CheckpointError: these are more tensors than any model has.
        """
        if len(self._found) >= _MOST_TENSORS:
            raise CheckpointError(f"{self.path / 'config.json'} asks for more than {_MOST_TENSORS:,} tensors")
        self._found[name] = TensorInfo(name, self.path, "float32", shape, 0, 0)
        while name not in self._scopes:
            self._scopes.add(name)
            name = name.rpartition(".")[0]

    def holds(self, name: str) -> bool:
        """Whether `name` is a tensor or scope of what was asked for, or of a part that the class has."""
        return name in self._scopes or any(_lies_in(name, part) or _lies_in(part, name) for part in self._parts)

    def read(self, name: str) -> np.ndarray:
        raise CheckpointError(f"{self.path}: the values of {name!r} are not known from a configuration alone")

    def release(self, name: str) -> None:
        """There is nothing to give back."""


@dataclass(frozen=True)
class PlannedWeights(Weights):
    """A scope of a planned checkpoint: takes the shapes that a model file promises for what is there."""

    checkpoint: PlannedTensors

    def under(self, *prefixes: str) -> Weights:
        """The scope of the prefix under which transformers would save the tensors."""
        if "shared" in prefixes and self.checkpoint.is_shared:
            return self["shared"]
        if "" in prefixes and self.checkpoint.is_base:
            return self
        return self[prefixes[0].removesuffix(".")]

    def __contains__(self, name: str) -> bool:
        return self.checkpoint.holds(self._join(name))

    def param(self, leaf: str, shape: tuple[int, ...]) -> Param:
        name = self._join(leaf)
        self.checkpoint.add(name, tuple(shape))
        return Param(self.checkpoint, name, tuple(shape), "float32")


def _lies_in(name: str, scope: str) -> bool:
    return f"{name}.".startswith(f"{scope}.")
