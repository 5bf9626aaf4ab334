"""Mixtures of experts."""

from __future__ import annotations

from typing import Any

import torch

from tests.tiny.case import Case
from tests.tiny.llama import LLAMA

# transformers adds up rows of experts that begin on 16 bytes
MIXTRAL = LLAMA | {"intermediate_size": 44, "num_local_experts": 5, "num_experts_per_tok": 2}


class Decided(Case):
    """A router that is sure of its choices, as training makes it: each expert has tokens of its own. Random routers
    are often so close to undecided that rounding sends a token to another expert, and its result says nothing of how
    well a mixture is computed."""

    def make(self) -> Any:
        model = super().make()
        embeddings, chosen = model.model.embed_tokens.weight, model.config.num_experts_per_tok
        experts, hidden = model.config.num_local_experts, embeddings.shape[1]
        directions = torch.linalg.qr(torch.randn(hidden, experts)).Q.T  # of each expert's tokens, [experts, hidden]
        with torch.no_grad():
            embeddings += 6 * directions[torch.arange(len(embeddings)) % experts]
            for layer in model.model.layers:  # first choice, second, ... and far behind them the others
                layer.mlp.gate.weight /= 4
                for i in range(chosen):
                    layer.mlp.gate.weight += directions.roll(i, 0) * (chosen - i) / chosen
        return model


WINDOW = {"sliding_window": 30, "num_local_experts": 8, "num_experts_per_tok": 3}
TOP_1 = {"num_experts_per_tok": 1, "tie_word_embeddings": True, "hidden_act": "gelu"}
CASES = {
    "mixtral": Decided("MixtralForCausalLM", "MixtralConfig", MIXTRAL),
    "mixtral-window": Decided("MixtralForCausalLM", "MixtralConfig", MIXTRAL | WINDOW),
    "mixtral-top-1": Decided("MixtralForCausalLM", "MixtralConfig", MIXTRAL | TOP_1),
    "mixtral-all": Case("MixtralForCausalLM", "MixtralConfig", MIXTRAL | {"num_experts_per_tok": 5}),
    "mixtral-undecided": Case("MixtralForCausalLM", "MixtralConfig", MIXTRAL),
    "mixtral-window-undecided": Case("MixtralForCausalLM", "MixtralConfig", MIXTRAL | WINDOW),
    "mixtral-top-1-undecided": Case("MixtralForCausalLM", "MixtralConfig", MIXTRAL | TOP_1),
}
