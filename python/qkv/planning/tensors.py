"""Stands for a checkpoint of which there is only the configuration: it has every tensor that a model file asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qkv.checkpoint import Config, Param, TensorInfo, Weights
from qkv.errors import CheckpointError

# How names of classes in `architectures` end -> tensors and scopes of their heads, in any family.
_HEADS = {
    "ForMaskedLM": (
        "cls.predictions.transform", "cls.predictions.bias",  # BERT
        "lm_head.dense", "lm_head.layer_norm", "lm_head.bias",  # RoBERTa
        "predictions.dense", "predictions.LayerNorm", "predictions.bias",  # ALBERT
        "vocab_transform", "vocab_layer_norm", "vocab_projector.bias",  # DistilBERT
    ),
    "ForSequenceClassification": ("classifier", "pre_classifier", "score", "classification_head"),
    "ForTokenClassification": ("classifier",),
    "ForQuestionAnswering": ("qa_outputs",),
    "ForConditionalGeneration": ("final_logits_bias",),
    "MTModel": ("final_logits_bias",),
}  # fmt: skip

# And those of their output layers, which a checkpoint only holds where they are not the token table ("tied");
# embed_out is GPT-NeoX's.
_OUTPUT_LAYERS = {
    "ForMaskedLM": (
        "cls.predictions.decoder", "lm_head.decoder", "predictions.decoder", "vocab_projector.weight",
    ),
    **dict.fromkeys(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MTModel"), ("lm_head", "embed_out")),
}  # fmt: skip

# More than the 47,000 of DeepSeek-V3's 256 experts a layer: a configuration that asks for more is not meant.
_MOST_TENSORS = 100_000


class PlannedTensors:
    """What a complete checkpoint with this configuration would hold, as far as a model asks for it.

    Attributes:
        path: the folder of the configuration.
        tensors: what was asked for so far, by name; a tensor that is used twice is there once.
    """

    def __init__(self, path: Path, config: Config, architectures: object) -> None:
        """`architectures`: what config.json says there: the class of transformers that wrote it."""
        self.path = path
        self._found: dict[str, TensorInfo] = {}
        tied = bool(getattr(config, "tie_word_embeddings", True))
        names = architectures if isinstance(architectures, list) else []
        self._heads = [
            head
            for table in ((_HEADS,) if tied else (_HEADS, _OUTPUT_LAYERS))
            for ending, heads in table.items()
            for head in heads
            if names and str(names[0]).endswith(ending)
        ]

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._found

    @property
    def names(self) -> list[str]:
        return sorted(self._found)

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

    def has_head(self, name: str) -> bool:
        """Whether `name` is a tensor or scope of the head that the class of the checkpoint has.

        The rest of a checkpoint differs from family to family: model files know it, and are not asked."""
        return any(_lies_in(name, head) or _lies_in(head, name) for head in self._heads)

    def read(self, name: str) -> np.ndarray:
        raise CheckpointError(f"{self.path}: the values of {name!r} are not known from a configuration alone")

    def release(self, name: str) -> None:
        """There is nothing to give back."""


@dataclass(frozen=True)
class PlannedWeights(Weights):
    """A scope of a planned checkpoint: takes the shapes that a model file promises for what is there."""

    checkpoint: PlannedTensors

    def under(self, *prefixes: str) -> Weights:
        """The scope of the first one. Models with and without a head differ in it, but hold the same tensors there."""
        return self[prefixes[0].removesuffix(".")]

    def __contains__(self, name: str) -> bool:
        full = self._join(name)
        return full in self.checkpoint.tensors or self.checkpoint.has_head(full)

    def param(self, leaf: str, shape: tuple[int, ...]) -> Param:
        name = self._join(leaf)
        self.checkpoint.add(name, tuple(shape))
        return Param(self.checkpoint, name, tuple(shape), "float32")


def _lies_in(name: str, scope: str) -> bool:
    return f"{name}.".startswith(f"{scope}.")
