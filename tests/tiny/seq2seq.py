"""Encoders with decoders: T5, BART, mBART, Marian."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from tests.tiny.case import Case


@dataclass(frozen=True, eq=False)
class Seq2SeqCase(Case):
    """
    Attributes:
        rules: of the generation config.
        own_head: an output layer of its own where transformers ties it whatever the configuration says (T5).
    """

    rules: dict[str, Any] = field(default_factory=dict)
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
            model.final_logits_bias.normal_(std=0.3)
        if self.generates:
            # tiny decoders like to repeat a token; what never repeats one says more
            words = [[token, token] for token in range(model.lm_head.out_features)]
            model.generation_config.update(**{"bad_words_ids": words} | self.rules)
        return model

    def decoder_sequences(self) -> list[list[int]] | None:
        """The longest source has the shortest target."""
        return self.sequences()[::-1]


class ClassifierCase(Seq2SeqCase):
    """Its decoder reads what its encoder reads; nothing is generated."""

    @property
    def has_logits(self) -> bool:
        return True

    def decoder_sequences(self) -> None:
        return None

    def sequences(self) -> list[list[int]]:
        """One end-of-sequence token each: BART's is 2. Behind it may be more."""
        plain = [[token if token != 2 else 3 for token in ids] for ids in super().sequences()]
        return [[*ids, 2, *[5, 6][: i % 3]] for i, ids in enumerate(plain)]


T5 = {
    "vocab_size": 103, "d_model": 40, "d_kv": 24, "d_ff": 77, "num_layers": 2, "num_heads": 3,
    "decoder_start_token_id": 0, "initializer_factor": 1.0,
}  # fmt: skip

FAIRSEQ = {
    "d_model": 48, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 3,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 77, "decoder_ffn_dim": 61, "initializer_range": 0.15,
    "max_position_embeddings": 400,
}  # fmt: skip
BART = FAIRSEQ | {"vocab_size": 103}
MARIAN = FAIRSEQ | {
    "vocab_size": 101, "pad_token_id": 100, "decoder_start_token_id": 100, "activation_function": "swish",
}  # fmt: skip

CASES = {
    "t5": Seq2SeqCase("T5ForConditionalGeneration", "T5Config", T5),
    "t5-base": Seq2SeqCase("T5Model", "T5Config", T5 | {"num_decoder_layers": 1, "layer_norm_epsilon": 1e-3}),
    "t5-v1.1": Seq2SeqCase(
        "T5ForConditionalGeneration", "T5Config",
        T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 1},
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
    "bart": Seq2SeqCase("BartForConditionalGeneration", "BartConfig", BART, rules={"forced_bos_token_id": 7}),
    "bart-base": Seq2SeqCase("BartModel", "BartConfig", BART | {"decoder_layers": 2, "scale_embedding": True}),
    "bart-untied": Seq2SeqCase(
        "BartForConditionalGeneration", "BartConfig",
        BART | {"tie_word_embeddings": False, "activation_function": "gelu_new"},
    ),
    "bart-classifier": ClassifierCase(
        "BartForSequenceClassification", "BartConfig", BART | {"num_labels": 5}
    ),
    "mbart": Seq2SeqCase(
        "MBartForConditionalGeneration", "MBartConfig",
        BART | {"scale_embedding": True, "decoder_start_token_id": 8},
        rules={"forced_bos_token_id": 9},
    ),
    "mbart-relu": Seq2SeqCase("MBartModel", "MBartConfig", BART | {"activation_function": "relu"}),
    "marian": Seq2SeqCase(
        "MarianMTModel", "MarianConfig", MARIAN | {"scale_embedding": True},
        rules={"bad_words_ids": [[100], *([i, j] for i in range(100) for j in (i, i + 1))]},
    ),
    "marian-two-vocabularies": Seq2SeqCase(
        "MarianMTModel", "MarianConfig",
        MARIAN | {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 107, "decoder_start_token_id": 106,
                  "d_model": 45, "encoder_attention_heads": 5, "decoder_attention_heads": 3,
                  "activation_function": "relu"},
    ),
    "marian-untied": Seq2SeqCase("MarianMTModel", "MarianConfig", MARIAN | {"tie_word_embeddings": False}),
}  # fmt: skip
