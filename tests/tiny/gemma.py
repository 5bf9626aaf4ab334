"""Gemma 2 and 3."""

from __future__ import annotations

from typing import Any

from tests.tiny.case import Case
from tests.tiny.llama import LLAMA, SHORT

GEMMA = LLAMA | {
    "head_dim": 24, "num_hidden_layers": 3, "sliding_window": 30, "query_pre_attn_scalar": 20, "pad_token_id": 0,
}  # fmt: skip


def gemma2(**options: Any) -> Case:
    return Case("Gemma2ForCausalLM", "Gemma2Config", GEMMA | options)


def gemma3(**options: Any) -> Case:
    return Case("Gemma3ForCausalLM", "Gemma3TextConfig", GEMMA | options)


CASES = {
    # caps that scores and logits reach
    "gemma2": gemma2(attn_logit_softcapping=3.0, final_logit_softcapping=2.0),
    "gemma2-no-caps": gemma2(
        attn_logit_softcapping=None, final_logit_softcapping=None, attention_bias=True, tie_word_embeddings=False,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"], hidden_activation="gelu",
    ),
    "gemma3_text": gemma3(layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
    "gemma3_text-pattern": gemma3(sliding_window_pattern=3, final_logit_softcapping=2.0, attention_bias=True),
    "gemma3_text-two-ropes": gemma3(
        sliding_window_pattern=2, num_key_value_heads=1,
        rope_parameters={
            "full_attention": {
                "rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0, "original_max_position_embeddings": SHORT,
            },
            "sliding_attention": {"rope_type": "linear", "rope_theta": 300.0, "factor": 2.0},
        },
    ),
}  # fmt: skip
