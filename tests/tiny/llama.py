"""LLaMA."""

from __future__ import annotations

from tests.tiny.case import Case

LLAMA = {
    "vocab_size": 107, "hidden_size": 48, "intermediate_size": 101, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 400, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GENTLE = LLAMA | {"initializer_range": 0.1}  # a classifier's few scores do not average the noise of int8

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
    "llama-base": Case("LlamaModel", "LlamaConfig", LLAMA),  # no lm_head, and tensors without "model."
    "llama-sequences": Case("LlamaForSequenceClassification", "LlamaConfig", GENTLE | {"num_labels": 7}),
    "llama-tokens": Case("LlamaForTokenClassification", "LlamaConfig", GENTLE | {"num_labels": 7}),
    "llama-question": Case("LlamaForQuestionAnswering", "LlamaConfig", GENTLE),
}  # fmt: skip
