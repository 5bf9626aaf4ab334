"""StarCoder 2 (Lozhkov et al. 2024): a pre-norm decoder with LayerNorm, rotary positions, grouped queries, a sliding
window and a plain feed-forward layer, biases everywhere."""

from __future__ import annotations

from dataclasses import dataclass

from qkv.checkpoint import Weights
from qkv.graph import Graph, Tensor
from qkv.models import heads
from qkv.models.common import activation
from qkv.models.grouped_heads import GroupedHeads
from qkv.models.rope import RotaryPositions


@dataclass(kw_only=True)
class Config(GroupedHeads, RotaryPositions):
    vocab_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_key_value_heads: int | None = 2
    max_position_embeddings: int = 4096
    hidden_act: str = "gelu_pytorch_tanh"
    norm_epsilon: float = 1e-5
    sliding_window: int | None = None
    use_bias: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("model.", "")
    rope = c.rope(c.head_dim)

    x = g.embed(w["embed_tokens"], vocab_size=c.vocab_size, hidden_size=c.hidden_size)
    for layer in w.layers("layers", c.num_hidden_layers):
        x = g.hidden(x)
        h = g.layer_norm(x, layer["input_layernorm"], eps=c.norm_epsilon)
        q, k, v = (g.linear(h, layer[f"self_attn.{p}_proj"], n, bias=c.use_bias) for p, n in c.widths.items())
        a = g.attention(q, k, v, head_dim=c.head_dim, causal=True, rope=rope, window=c.sliding_window)
        x = x + g.linear(a, layer["self_attn.o_proj"], c.hidden_size, bias=c.use_bias)

        h = g.layer_norm(x, layer["post_attention_layernorm"], eps=c.norm_epsilon)
        h = g.activate(g.linear(h, layer["mlp.c_fc"], c.intermediate_size, bias=c.use_bias), activation(c.hidden_act))
        x = x + g.linear(h, layer["mlp.c_proj"], c.hidden_size, bias=c.use_bias)

    x = g.hidden(g.layer_norm(x, w["norm"], eps=c.norm_epsilon))
    g.output("hidden_states", x)
    heads.decoder(g, root, x, w["embed_tokens"] if c.tie_word_embeddings else root["lm_head"], c.vocab_size)
    return x
