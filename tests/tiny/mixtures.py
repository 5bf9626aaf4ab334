"""Mixtures of experts."""

from __future__ import annotations

from tests.tiny.case import Case
from tests.tiny.llama import LLAMA

# transformers adds up rows of experts that begin on 16 bytes
MIXTRAL = LLAMA | {"intermediate_size": 44, "num_local_experts": 5, "num_experts_per_tok": 2}

CASES = {
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
