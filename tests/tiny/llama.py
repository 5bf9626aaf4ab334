"""LLaMA."""

from __future__ import annotations

from tests.tiny.case import Case

LLAMA = {
    "vocab_size": 107, "hidden_size": 48, "intermediate_size": 101, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 400, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


CASES = {
    "llama": Case("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "llama-mha": Case(
        "LlamaForCausalLM", "LlamaConfig", LLAMA | {"num_key_value_heads": 6, "tie_word_embeddings": True}
    ),
    "llama-mqa": Case("LlamaForCausalLM", "LlamaConfig", LLAMA | {"num_key_value_heads": 1, "rms_norm_eps": 1e-3}),
    "llama-head-dim": Case("LlamaForCausalLM", "LlamaConfig", LLAMA | {"head_dim": 24, "hidden_size": 54}),
    "llama-bias": Case("LlamaForCausalLM", "LlamaConfig", LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "llama-theta": Case(
        "LlamaForCausalLM", "LlamaConfig",
        LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    ),
}  # fmt: skip
