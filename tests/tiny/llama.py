"""LLaMA, and what is close to it: Mistral, Qwen, Phi-3."""

from __future__ import annotations

from typing import Any

from tests.tiny.case import Case

LLAMA = {
    "vocab_size": 107, "hidden_size": 48, "intermediate_size": 101, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 400, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
PHI3 = LLAMA | {"pad_token_id": 0, "num_attention_heads": 3, "num_key_value_heads": 1}
# texts are longer than 100 tokens, and shorter; theta so that the slowest pair turns, too
SHORT, THETA = 100, 300.0


def rope(kind: str, theta: float = THETA, **options: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **options}}


def llama(**options: Any) -> Case:
    return Case("LlamaForCausalLM", "LlamaConfig", LLAMA | options)


def mistral(**options: Any) -> Case:
    return Case("MistralForCausalLM", "MistralConfig", LLAMA | options)


def qwen2(**options: Any) -> Case:
    return Case("Qwen2ForCausalLM", "Qwen2Config", LLAMA | options)


def qwen3(**options: Any) -> Case:
    return Case("Qwen3ForCausalLM", "Qwen3Config", LLAMA | {"head_dim": 24} | options)


def phi3(**options: Any) -> Case:
    return Case("Phi3ForCausalLM", "Phi3Config", PHI3 | options)


def starcoder2(**options: Any) -> Case:
    return Case("Starcoder2ForCausalLM", "Starcoder2Config", LLAMA | options)


def longrope(pairs: int, **options: Any) -> dict[str, Any]:
    factors = {"short_factor": [1 + 0.1 * i for i in range(pairs)], "long_factor": [2 + 0.3 * i for i in range(pairs)]}
    return rope("longrope", **factors, **options)


GENTLE = LLAMA | {"initializer_range": 0.1}  # a classifier's few scores do not average the noise of int8

CASES = {
    "llama": llama(),
    "llama-mha": llama(num_key_value_heads=6, tie_word_embeddings=True),
    "llama-mqa": llama(num_key_value_heads=1, rms_norm_eps=1e-3),
    "llama-head-dim": llama(head_dim=24, hidden_size=54),
    "llama-bias": llama(attention_bias=True, mlp_bias=True),
    "llama-theta": llama(**rope("default", 500000.0)),
    "llama-linear": llama(**rope("linear", factor=4.0)),
    "llama-dynamic": llama(**rope("dynamic", factor=2.5), max_position_embeddings=SHORT),
    "llama-llama3": llama(
        **rope(
            "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=SHORT
        )
    ),
    "llama-yarn": llama(**rope("yarn", factor=4.0, original_max_position_embeddings=SHORT)),
    "llama-yarn-options": llama(
        head_dim=40,
        **rope(
            "yarn", factor=3.0, original_max_position_embeddings=150, beta_fast=8.0, beta_slow=0.5, mscale=0.8,
            mscale_all_dim=0.3, truncate=False,
        ),
    ),
    "llama-yarn-attention": llama(
        **rope("yarn", factor=None, attention_factor=0.7, original_max_position_embeddings=SHORT)
    ),
    "llama-longrope": llama(**longrope(4, original_max_position_embeddings=SHORT)),
    "mistral": mistral(sliding_window=30),
    "mistral-no-window": mistral(sliding_window=None, head_dim=40),
    "mistral-layer-types": Case(
        "MinistralForCausalLM", "MinistralConfig",
        LLAMA | {"head_dim": 8, "sliding_window": 7, "layer_types": ["full_attention", "sliding_attention"]},
    ),
    "qwen2": qwen2(tie_word_embeddings=True),
    "qwen2-windows": qwen2(use_sliding_window=True, sliding_window=50, max_window_layers=1),
    "qwen2-layer-types": qwen2(
        use_sliding_window=True, sliding_window=9, layer_types=["sliding_attention", "full_attention"]
    ),
    "qwen3": qwen3(),
    "qwen3-bias": qwen3(attention_bias=True, head_dim=40, tie_word_embeddings=True),
    "qwen3-windows": qwen3(use_sliding_window=True, sliding_window=30, max_window_layers=0),
    "starcoder2": starcoder2(num_key_value_heads=1),
    "starcoder2-window": starcoder2(sliding_window=30, use_bias=False, tie_word_embeddings=False, hidden_act="silu"),
    "phi3": phi3(),
    "phi3-window": phi3(sliding_window=40, num_key_value_heads=None, tie_word_embeddings=True),
    "phi3-partial": phi3(**rope("default", partial_rotary_factor=0.75)),
    # gentler weights: LongRoPE sharpens attention, and one row would turn by int8's noise
    "phi3-longrope": phi3(**longrope(8), original_max_position_embeddings=SHORT, initializer_range=0.12),
    "phi3-longrope-options": phi3(
        **longrope(6, partial_rotary_factor=0.75, factor=3.0), original_max_position_embeddings=SHORT
    ),
    "llama-base": Case("LlamaModel", "LlamaConfig", LLAMA),  # no lm_head, and tensors without "model."
    "llama-sequences": Case("LlamaForSequenceClassification", "LlamaConfig", GENTLE | {"num_labels": 7}),
    "llama-tokens": Case("LlamaForTokenClassification", "LlamaConfig", GENTLE | {"num_labels": 7}),
    "llama-question": Case("LlamaForQuestionAnswering", "LlamaConfig", GENTLE),
}  # fmt: skip
