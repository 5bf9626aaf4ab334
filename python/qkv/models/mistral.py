"""Mistral (Jiang et al. 2023): LLaMA with a window on attention; some layers' only, where the config has layer_types
(Ministral)."""

from __future__ import annotations

from dataclasses import dataclass

from qkv.checkpoint import Weights
from qkv.graph import Graph, Tensor
from qkv.models import heads
from qkv.models.common import activation
from qkv.models.gated_ffn import gated_ffn
from qkv.models.grouped_heads import GroupedHeads
from qkv.models.rope import RotaryPositions
from qkv.models.windows import FULL, SLIDING, LayerWindows


@dataclass(kw_only=True)
class Config(GroupedHeads, LayerWindows, RotaryPositions):
    vocab_size: int
    intermediate_size: int
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 4096 * 32
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def default_layer_type(self, index: int) -> str:
        return FULL if self.sliding_window is None else SLIDING


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("model.", "")
    rope = c.rope(c.head_dim)
    act = activation(c.hidden_act)

    x = g.embed(w["embed_tokens"], vocab_size=c.vocab_size, hidden_size=c.hidden_size)
    for layer, window in zip(w.layers("layers", c.num_hidden_layers), c.windows, strict=True):
        x = g.hidden(x)
        h = g.rms_norm(x, layer["input_layernorm"], eps=c.rms_norm_eps)
        q, k, v = (g.linear(h, layer[f"self_attn.{p}_proj"], n, bias=False) for p, n in c.widths.items())
        a = g.attention(q, k, v, head_dim=c.head_dim, causal=True, rope=rope, window=window)
        x = x + g.linear(a, layer["self_attn.o_proj"], c.hidden_size, bias=False)

        h = g.rms_norm(x, layer["post_attention_layernorm"], eps=c.rms_norm_eps)
        x = x + gated_ffn(g, h, layer["mlp"], c.intermediate_size, act)

    x = g.hidden(g.rms_norm(x, w["norm"], eps=c.rms_norm_eps))
    g.output("hidden_states", x)
    heads.decoder(g, root, x, w["embed_tokens"] if c.tie_word_embeddings else root["lm_head"], c.vocab_size)
    return x
