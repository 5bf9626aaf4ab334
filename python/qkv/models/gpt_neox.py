"""GPT-NeoX (Black et al. 2022) and Pythia (Biderman et al. 2023): rotary positions in a part of each head, one fused
q/k/v projection with the three parts of each head together, and a feed-forward layer that reads the input of attention
("parallel residual") or the sum of its input and result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qkv.checkpoint import Weights
from qkv.graph import Graph, Tensor
from qkv.models import heads
from qkv.models.common import activation
from qkv.models.rope import RotaryPositions


@dataclass(kw_only=True)
class Config(RotaryPositions):
    ALIASES: ClassVar = {"rotary_pct": "partial_rotary_factor", "rotary_emb_base": "rope_theta"}

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    head_dim: int = 0
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    partial_rotary_factor: float = 0.25
    use_parallel_residual: bool = True
    attention_bias: bool = True
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def check(self) -> None:
        super().check()
        self.require_divisible("hidden_size", "num_attention_heads")
        split = self.hidden_size // self.num_attention_heads
        self.require(
            self.head_dim in (0, split),
            f"head_dim is {self.head_dim}; expected hidden_size / num_attention_heads, which is {split}",
        )
        self.head_dim = split


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("gpt_neox.", "")
    rope = c.rope(c.head_dim, partial=True)
    x = g.embed(w["embed_in"], vocab_size=c.vocab_size, hidden_size=c.hidden_size)
    for layer in w.layers("layers", c.num_hidden_layers):
        g.hidden(x)
        h = g.layer_norm(x, layer["input_layernorm"], eps=c.layer_norm_eps)
        # [heads, 3, head_dim]
        fused, widths = layer["attention.query_key_value"], [c.hidden_size] * 3
        q, k, v = g.linears(h, fused, widths, bias=c.attention_bias, groups=c.num_attention_heads)
        a = g.attention(q, k, v, head_dim=c.head_dim, causal=True, rope=rope)
        attended = x + g.linear(a, layer["attention.dense"], c.hidden_size, bias=c.attention_bias)

        read = x if c.use_parallel_residual else attended
        h = g.layer_norm(read, layer["post_attention_layernorm"], eps=c.layer_norm_eps)
        h = g.linear(h, layer["mlp.dense_h_to_4h"], c.intermediate_size, bias=True)
        h = g.activate(h, activation(c.hidden_act))
        x = attended + g.linear(h, layer["mlp.dense_4h_to_h"], c.hidden_size, bias=True)

    x = g.hidden(g.layer_norm(x, w["final_layer_norm"], eps=c.layer_norm_eps))
    g.output("hidden_states", x)
    lm = root["lm_head" if "lm_head" in root else "embed_out"]
    heads.decoder(g, root, x, w["embed_in"] if c.tie_word_embeddings else lm, c.vocab_size)
    return x
