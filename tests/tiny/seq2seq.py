"""Encoders with decoders: T5, BART, mBART, Marian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from tests.tiny.case import Case


@dataclass(frozen=True, eq=False)
class Seq2SeqCase(Case):
    """
    Attributes:
        own_head: an output layer of its own where transformers ties it whatever the configuration says (T5).
    """

    own_head: bool = False

    @property
    def generates(self) -> bool:
        return self.model.endswith(("ForConditionalGeneration", "MTModel"))

    @property
    def has_logits(self) -> bool:
        return self.generates or super().has_logits

    def make(self) -> Any:
        model = super().make()
        if self.own_head:
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
        return model

    def decoder_sequences(self) -> list[list[int]] | None:
        """The longest source has the shortest target."""
        return self.sequences()[::-1]


T5 = {
    "vocab_size": 103, "d_model": 40, "d_kv": 24, "d_ff": 77, "num_layers": 2, "num_heads": 3,
    "decoder_start_token_id": 0,
}  # fmt: skip

CASES = {
    "t5": Seq2SeqCase("T5ForConditionalGeneration", "T5Config", T5),
    "t5-base": Seq2SeqCase("T5Model", "T5Config", T5 | {"num_decoder_layers": 1, "layer_norm_epsilon": 1e-3}),
    "t5-v1.1": Seq2SeqCase(
        "T5ForConditionalGeneration", "T5Config",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_layers": 3, "num_decoder_layers": 2},
        own_head=True,
    ),
    "t5-gated-silu": Seq2SeqCase(
        "T5ForConditionalGeneration", "T5Config",
        T5 | {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False, "num_decoder_layers": 1},
    ),
    "t5-buckets": Seq2SeqCase(
        "T5ForConditionalGeneration", "T5Config",
        T5 | {"relative_attention_num_buckets": 10, "relative_attention_max_distance": 50, "feed_forward_proj": "gelu"},
    ),
}  # fmt: skip
