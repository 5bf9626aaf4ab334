"""Phi-3 and Phi-4 mini (Abdin et al. 2024): LLaMA with q, k, v and gate, up in fused matrices, rotary positions that
can leave a part of each head alone and stretch by LongRoPE, and a window on attention where the config has one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Graph, Tensor
from qkv.models import heads
from qkv.models.common import activation
from qkv.models.grouped_heads import GroupedHeads
from qkv.models.rope import Parameters, RotaryPositions


@dataclass(kw_only=True)
class Config(GroupedHeads, RotaryPositions):
    vocab_size: int
    intermediate_size: int
    num_hidden_layers: int
    max_position_embeddings: int = 4096
    original_max_position_embeddings: int | None = 4096
    sliding_window: int | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    mlp_bias: bool = False
    lm_head_bias: bool = False
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def check(self) -> None:
        super().check()
        for name in ("attention_bias", "mlp_bias", "lm_head_bias"):  # in files of Phi's, and always false
            if getattr(self, name):
                raise UnsupportedArchitecture(f"{self.where}: {name} is not supported for phi3")

    def parameters(self) -> Parameters:
        """LongRoPE has had other names in files of Phi's."""
        p = super().parameters()
        if p.kind not in ("su", "yarn"):
            return p
        return replace(p, values={**p.values, "rope_type": "longrope"})


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("model.", "")
    rope = c.rope(c.head_dim, partial=True)

    x = g.embed(w["embed_tokens"], vocab_size=c.vocab_size, hidden_size=c.hidden_size)
    for layer in w.layers("layers", c.num_hidden_layers):
        x = g.hidden(x)
        h = g.rms_norm(x, layer["input_layernorm"], eps=c.rms_norm_eps)
        q, k, v = g.linears(h, layer["self_attn.qkv_proj"], list(c.widths.values()), bias=False)
        a = g.attention(q, k, v, head_dim=c.head_dim, causal=True, rope=rope, window=c.sliding_window)
        x = x + g.linear(a, layer["self_attn.o_proj"], c.hidden_size, bias=False)

        h = g.rms_norm(x, layer["post_attention_layernorm"], eps=c.rms_norm_eps)
        gate, up = g.linears(h, layer["mlp.gate_up_proj"], [c.intermediate_size] * 2, bias=False)
        h = g.activate(gate, activation(c.hidden_act)) * up
        x = x + g.linear(h, layer["mlp.down_proj"], c.hidden_size, bias=False)

    x = g.hidden(g.rms_norm(x, w["norm"], eps=c.rms_norm_eps))
    g.output("hidden_states", x)
    heads.decoder(g, root, x, w["embed_tokens"] if c.tie_word_embeddings else root["lm_head"], c.vocab_size)
    return x
