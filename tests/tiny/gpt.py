"""GPT-2."""

from __future__ import annotations

from tests.tiny.case import Case

GPT2 = {
    "vocab_size": 103,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 2,
    "n_positions": 400,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CASES = {
    "gpt2": Case("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt2-base": Case("GPT2Model", "GPT2Config", GPT2),  # tensors without "transformer."
    "gpt2-inner": Case(
        "GPT2LMHeadModel", "GPT2Config",
        GPT2 | {"n_inner": 59, "scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"},
    ),
    "gpt2-untied": Case("GPT2LMHeadModel", "GPT2Config", GPT2 | {"tie_word_embeddings": False, "n_head": 3}),
}  # fmt: skip
