"""The config of T5, and what it must not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qkv.checkpoint import Config as BaseConfig
from qkv.errors import UnsupportedArchitecture
from qkv.models.common import activation

# Of the distances to one side, in all heads: T5 11B, the largest, has 16,384.
_MOST_BIASES = 2**20


@dataclass
class Config(BaseConfig):
    ALIASES: ClassVar = {
        "hidden_size": "d_model",
        "head_dim": "d_kv",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    }

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    num_decoder_layers: int | None = None
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    dense_act_fn: str | None = None  # what feed_forward_proj says, once more
    is_gated_act: bool | None = None
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None
    decoder_start_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 1

    def check(self) -> None:
        if not self.is_encoder_decoder:
            raise UnsupportedArchitecture(
                f"{self.where}: t5 without is_encoder_decoder: only both together are supported"
            )
        exact = self.relative_attention_num_buckets // 2
        self.require(exact >= 2, f"relative_attention_num_buckets {self.relative_attention_num_buckets} are too few")
        self.require(
            self.relative_attention_max_distance > exact,
            f"relative_attention_max_distance {self.relative_attention_max_distance} is within the first {exact} "
            "buckets, which are for one distance each",
        )
        biases = self.num_heads * self.relative_attention_max_distance
        self.require(
            biases <= _MOST_BIASES,
            f"num_heads {self.num_heads} times relative_attention_max_distance {self.relative_attention_max_distance} "
            f"is more than the {_MOST_BIASES} biases that attention may have",
        )

        agree = self.dense_act_fn is None or activation(self.dense_act_fn) == self.function
        agree = agree and self.is_gated_act in (None, self.gated)
        self.require(
            agree,
            f"feed_forward_proj {self.feed_forward_proj!r:.60} is not what dense_act_fn {self.dense_act_fn!r:.60} and "
            f"is_gated_act {self.is_gated_act} say",
        )

    @property
    def context_length(self) -> None:
        """Positions have no end: far distances share a bucket."""

    @property
    def gated(self) -> bool:
        return self.feed_forward_proj.startswith("gated-")

    @property
    def function(self) -> str:
        """The kernel's name; gated-gelu means the tanh approximation."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return activation("gelu_new" if self.gated and name == "gelu" else name)

    @property
    def scales_output(self) -> bool:
        """Where the output layer is the table of embeddings. transformers 5 writes scale_decoder_outputs, and calls
        version 1.1 tied, which has an output layer of its own."""
        return self.tie_word_embeddings if self.scale_decoder_outputs is None else self.scale_decoder_outputs
