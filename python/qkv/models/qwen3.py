"""Qwen 3 (Yang et al. 2025): LLaMA with a norm of each head of queries and keys before they are turned, heads of any
width, and windows on the upper layers where the config asks for them."""

from __future__ import annotations

from dataclasses import dataclass

from qkv.checkpoint import Weights
from qkv.graph import Graph, Tensor
from qkv.models import heads
from qkv.models.common import activation
from qkv.models.gated_ffn import gated_ffn
from qkv.models.grouped_heads import GroupedHeads
from qkv.models.rope import RotaryPositions
from qkv.models.windows import UpperWindows


@dataclass(kw_only=True)
class Config(GroupedHeads, UpperWindows, RotaryPositions):
    vocab_size: int
    intermediate_size: int
    num_key_value_heads: int | None = 32
    head_dim: int = 128
    max_position_embeddings: int = 32768
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("model.", "")
    rope = c.rope(c.head_dim)
    act = activation(c.hidden_act)

    x = g.embed(w["embed_tokens"], vocab_size=c.vocab_size, hidden_size=c.hidden_size)
    for layer, window in zip(w.layers("layers", c.num_hidden_layers), c.windows, strict=True):
        x = g.hidden(x)
        h = g.rms_norm(x, layer["input_layernorm"], eps=c.rms_norm_eps)
        q, k, v = (g.linear(h, layer[f"self_attn.{p}_proj"], n, bias=c.attention_bias) for p, n in c.widths.items())
        q = g.rms_norm(q, layer["self_attn.q_norm"], eps=c.rms_norm_eps, head_dim=c.head_dim)
        k = g.rms_norm(k, layer["self_attn.k_norm"], eps=c.rms_norm_eps, head_dim=c.head_dim)
        a = g.attention(q, k, v, head_dim=c.head_dim, causal=True, rope=rope, window=window)
        x = x + g.linear(a, layer["self_attn.o_proj"], c.hidden_size, bias=c.attention_bias)

        h = g.rms_norm(x, layer["post_attention_layernorm"], eps=c.rms_norm_eps)
        x = x + gated_ffn(g, h, layer["mlp"], c.intermediate_size, act)

    x = g.hidden(g.rms_norm(x, w["norm"], eps=c.rms_norm_eps))
    g.output("hidden_states", x)
    heads.decoder(g, root, x, w["embed_tokens"] if c.tie_word_embeddings else root["lm_head"], c.vocab_size)
    return x
