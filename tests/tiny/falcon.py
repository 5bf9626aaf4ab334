"""Falcon and BLOOM."""

from __future__ import annotations

from tests.tiny.case import LENGTHS, Case

FALCON = {
    "vocab_size": 105, "hidden_size": 72, "num_hidden_layers": 2, "num_attention_heads": 3,
    "max_position_embeddings": 300, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
NEW = {"new_decoder_architecture": True, "num_attention_heads": 9, "num_kv_heads": 3}
# ALiBi is rounded to bfloat16, which leaves slopes of 2, 4 or 8 heads and positions up to 256 as they are
RW = {"alibi": True, "parallel_attn": False, "multi_query": False, "bias": True, "num_attention_heads": 12}

BLOOM = {
    "vocab_size": 111, "hidden_size": 72, "n_layer": 2, "n_head": 3, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

CASES = {
    "falcon": Case("FalconForCausalLM", "FalconConfig", FALCON),
    "falcon-serial": Case(
        "FalconForCausalLM", "FalconConfig",
        FALCON | {"parallel_attn": False, "ffn_hidden_size": 61, "rope_theta": 777.0, "activation": "relu"},
    ),
    "falcon-dynamic": Case(
        "FalconForCausalLM", "FalconConfig",
        FALCON | {
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 300.0, "factor": 2.5},
            "max_position_embeddings": 100,
        },
    ),
    "falcon-new": Case("FalconForCausalLM", "FalconConfig", FALCON | NEW),
    "falcon-new-one-norm": Case(
        "FalconForCausalLM", "FalconConfig",
        FALCON | NEW | {"num_ln_in_parallel_attn": 1, "tie_word_embeddings": False, "bias": True},
    ),
    "falcon-rw": Case("FalconForCausalLM", "FalconConfig", FALCON | RW, (*LENGTHS, 300)),
    "falcon-alibi-multi-query": Case(
        "FalconForCausalLM", "FalconConfig", FALCON | {"alibi": True, "num_attention_heads": 24}
    ),
    "bloom": Case("BloomForCausalLM", "BloomConfig", BLOOM),
    "bloom-heads": Case("BloomForCausalLM", "BloomConfig", BLOOM | {"n_head": 8, "tie_word_embeddings": False}),
    "bloom-base": Case("BloomModel", "BloomConfig", BLOOM),  # tensors without "transformer.", as published
    "bloom-post": Case(
        "BloomForCausalLM", "BloomConfig",
        BLOOM | {"apply_residual_connection_post_layernorm": True, "n_head": 6},
    ),
}  # fmt: skip
