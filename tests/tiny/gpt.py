"""GPT-2 and what came of it: GPT-Neo, GPT-J, GPT-NeoX; heads of 24 and 40."""

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

# Scores are not divided by sqrt(head_dim): weights as large as elsewhere would make attention a lookup of one token.
GPT_NEO = {
    "vocab_size": 109, "hidden_size": 72, "num_layers": 3, "num_heads": 3, "max_position_embeddings": 300,
    "attention_types": [[["global", "local"], 1], [["local"], 1]], "window_size": 19, "initializer_range": 0.08,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

GPTJ = {
    "vocab_size": 127, "n_embd": 80, "n_layer": 2, "n_head": 2, "n_positions": 300, "rotary_dim": 12,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

GPT_NEOX = {
    "vocab_size": 113, "hidden_size": 72, "intermediate_size": 131, "num_hidden_layers": 2, "num_attention_heads": 3,
    "max_position_embeddings": 300, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

CASES = {
    "gpt2": Case("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt2-base": Case("GPT2Model", "GPT2Config", GPT2),  # tensors without "transformer."
    "gpt2-inner": Case(
        "GPT2LMHeadModel", "GPT2Config",
        GPT2 | {"n_inner": 59, "scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"},
    ),
    "gpt2-untied": Case(
        "GPT2LMHeadModel", "GPT2Config",
        GPT2 | {"tie_word_embeddings": False, "n_head": 3, "reorder_and_upcast_attn": True},
    ),
    "gpt2-unscaled": Case(
        "GPT2LMHeadModel", "GPT2Config",
        GPT2 | {"scale_attn_weights": False, "activation_function": "silu", "initializer_range": 0.08},
    ),
    "gpt_neo": Case("GPTNeoForCausalLM", "GPTNeoConfig", GPT_NEO),
    "gpt_neo-untied": Case(
        "GPTNeoForCausalLM", "GPTNeoConfig",
        GPT_NEO | {
            "tie_word_embeddings": False, "intermediate_size": 61, "activation_function": "gelu",
            "attention_types": [[["local", "global", "global"], 1]], "window_size": 1,
        },
    ),
    "gptj": Case("GPTJForCausalLM", "GPTJConfig", GPTJ),
    "gptj-whole-head": Case("GPTJForCausalLM", "GPTJConfig", GPTJ | {"rotary_dim": 40, "n_inner": 67}),
    "gptj-tied": Case(
        "GPTJForCausalLM", "GPTJConfig",
        GPTJ | {"tie_word_embeddings": True, "n_head": 10, "rotary_dim": 2, "activation_function": "relu"},
    ),
    "gpt_neox": Case("GPTNeoXForCausalLM", "GPTNeoXConfig", GPT_NEOX),
    "gpt_neox-sequential": Case(
        "GPTNeoXForCausalLM", "GPTNeoXConfig",
        GPT_NEOX | {"use_parallel_residual": False, "attention_bias": False, "hidden_act": "gelu_fast"},
    ),
    "gpt_neox-whole-head": Case(
        "GPTNeoXForCausalLM", "GPTNeoXConfig",
        GPT_NEOX | {"rotary_pct": 1.0, "rotary_emb_base": 500, "tie_word_embeddings": True, "hidden_act": "relu"},
    ),
    "gpt_neox-linear": Case(
        "GPTNeoXForCausalLM", "GPTNeoXConfig",
        GPT_NEOX | {
            "rope_parameters": {
                "rope_type": "linear", "rope_theta": 900.0, "factor": 3.0, "partial_rotary_factor": 0.5
            }
        },
    ),
    "gpt2-sequences": Case("GPT2ForSequenceClassification", "GPT2Config", GPT2 | {"num_labels": 7}),
    "gpt2-tokens": Case("GPT2ForTokenClassification", "GPT2Config", GPT2 | {"num_labels": 7}),
    "gpt2-question": Case("GPT2ForQuestionAnswering", "GPT2Config", GPT2),
}  # fmt: skip
