"""Tiny random checkpoints, made with transformers; awkward sizes on purpose: nothing is a multiple of a vector.

`python -m tests.tiny FOLDER` makes all of them, for tests that run where there is no transformers.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers


@dataclass(frozen=True)
class Case:
    model: str  # class of transformers
    config: str
    options: dict[str, Any] = field(default_factory=dict)

    def make(self) -> Any:
        """The model in float32. Weights are larger than usual, so that scores differ clearly and attention is sharp."""
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.options, initializer_range=0.15)
        model = getattr(transformers, self.model)(config).eval()
        with torch.no_grad():
            for _name, p in model.named_parameters():
                if p.ndim == 1:  # biases and norm weights start as 0 and 1: give every element its own value
                    p.add_(0.1 * torch.randn_like(p))
        return model


BERT = {
    "vocab_size": 101, "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 77,
    "max_position_embeddings": 200, "type_vocab_size": 3,
}  # fmt: skip
GPT2 = {
    "vocab_size": 103,
    "n_embd": 48,
    "n_layer": 3,
    "n_head": 2,
    "n_positions": 400,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = {
    "vocab_size": 107, "hidden_size": 48, "intermediate_size": 101, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 400, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

MIXTRAL = LLAMA | {"intermediate_size": 44, "num_local_experts": 5, "num_experts_per_tok": 2}

CASES = {
    "bert": Case("BertModel", "BertConfig", BERT),
    "bert-relu": Case("BertModel", "BertConfig", BERT | {"hidden_act": "relu", "num_attention_heads": 1}),
    "bert-gelu_new": Case("BertModel", "BertConfig", BERT | {"hidden_act": "gelu_new", "type_vocab_size": 1}),
    "bert-with-head": Case("BertForMaskedLM", "BertConfig", BERT),  # tensors under "bert."
    "gpt2": Case("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt2-base": Case("GPT2Model", "GPT2Config", GPT2),  # tensors without "transformer."
    "gpt2-inner": Case(
        "GPT2LMHeadModel", "GPT2Config",
        GPT2 | {"n_inner": 59, "scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"},
    ),
    "gpt2-untied": Case("GPT2LMHeadModel", "GPT2Config", GPT2 | {"tie_word_embeddings": False, "n_head": 3}),
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
    "mixtral": Case("MixtralForCausalLM", "MixtralConfig", MIXTRAL),
    "mixtral-window": Case(
        "MixtralForCausalLM", "MixtralConfig",
        MIXTRAL | {"sliding_window": 30, "num_local_experts": 8, "num_experts_per_tok": 3},
    ),
    "mixtral-all": Case("MixtralForCausalLM", "MixtralConfig", MIXTRAL | {"num_experts_per_tok": 5}),
    "mixtral-top-1": Case(
        "MixtralForCausalLM", "MixtralConfig",
        MIXTRAL | {"num_experts_per_tok": 1, "tie_word_embeddings": True, "hidden_act": "gelu"},
    ),
}  # fmt: skip


def make_tiny(case: str, folder: Path) -> Path:
    """Writes the case's checkpoint to `folder`."""
    CASES[case].make().save_pretrained(folder)
    return folder


if __name__ == "__main__":
    for name in CASES:
        make_tiny(name, Path(sys.argv[1]) / name)
