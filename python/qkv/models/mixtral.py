"""Mixtral (Jiang et al. 2024): LLaMA whose feed-forward layer is a mixture of experts, of which each token takes the
likeliest few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qkv.checkpoint import Weights
from qkv.graph import Graph, Tensor
from qkv.models import heads
from qkv.models.common import activation
from qkv.models.grouped_heads import GroupedHeads
from qkv.models.rope import RotaryPositions


@dataclass(kw_only=True)
class Config(GroupedHeads, RotaryPositions):
    ALIASES: ClassVar = {"num_experts": "num_local_experts"}

    vocab_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 131072
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    rope_theta: float = 1e6
    sliding_window: int | None = None
    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def check(self) -> None:
        super().check()
        self.require(
            self.num_experts_per_tok <= self.num_local_experts,
            f"num_experts_per_tok is {self.num_experts_per_tok} of {self.num_local_experts} num_local_experts",
        )


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("model.", "")
    rope = c.rope(c.head_dim)

    x = g.embed(w["embed_tokens"], vocab_size=c.vocab_size, hidden_size=c.hidden_size)
    for layer in w.layers("layers", c.num_hidden_layers):
        x = g.hidden(x)
        h = g.rms_norm(x, layer["input_layernorm"], eps=c.rms_norm_eps)
        q, k, v = (g.linear(h, layer[f"self_attn.{p}_proj"], n, bias=False) for p, n in c.widths.items())
        a = g.attention(q, k, v, head_dim=c.head_dim, causal=True, rope=rope, window=c.sliding_window)
        x = x + g.linear(a, layer["self_attn.o_proj"], c.hidden_size, bias=False)

        h = g.rms_norm(x, layer["post_attention_layernorm"], eps=c.rms_norm_eps)
        moe = layer.under("block_sparse_moe", "mlp")  # on the hub, and as transformers 5 names it
        x = x + g.experts(
            h,
            g.linear(h, moe["gate"], c.num_local_experts, bias=False, exact=True),
            moe["experts"],
            inner=c.intermediate_size,
            names=("w1", "w3", "w2"),
            activation=activation(c.hidden_act),
            top_k=c.num_experts_per_tok,
        )

    x = g.hidden(g.rms_norm(x, w["norm"], eps=c.rms_norm_eps))
    g.output("hidden_states", x)
    heads.decoder(g, root, x, w["embed_tokens"] if c.tie_word_embeddings else root["lm_head"], c.vocab_size)
    return x
