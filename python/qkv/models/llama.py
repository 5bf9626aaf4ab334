"""LLaMA 1, 2 and 3 (Touvron et al. 2023): a pre-norm decoder with RMSNorm, rotary positions, grouped queries and a
gated feed-forward layer, no biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qkv.checkpoint import Config as BaseConfig
from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Graph, Rope, Tensor
from qkv.models.common import activation


@dataclass
class Config(BaseConfig):
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def check(self) -> None:
        self.num_key_value_heads = self.num_key_value_heads or self.num_attention_heads
        self.require_divisible("num_attention_heads", "num_key_value_heads")
        if self.head_dim is None:
            self.require_divisible("hidden_size", "num_attention_heads")
            self.head_dim = self.hidden_size // self.num_attention_heads
        self.require(self.head_dim % 2 == 0, f"head_dim {self.head_dim} is odd: rotary positions turn pairs")

    @property
    def context_length(self) -> int:
        return self.max_position_embeddings

    def rope(self) -> Rope:
        # transformers 5 writes rope_parameters, which holds theta too; older ones rope_theta and rope_scaling
        parameters = self.rope_parameters or self.rope_scaling or {}
        kind = parameters.get("rope_type", parameters.get("type", "default"))
        if kind != "default":
            raise UnsupportedArchitecture(f"llama with rope_type {kind!r}: only 'default' is supported")
        theta = parameters.get("rope_theta", self.rope_theta)
        is_number = isinstance(theta, int | float) and not isinstance(theta, bool) and theta > 0
        self.require(is_number, f"rope_theta {theta!r} is not a positive number")
        assert self.head_dim
        return Rope.plain(float(theta), self.head_dim)


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("model.", "")
    assert c.head_dim
    assert c.num_key_value_heads
    widths = {"q": c.num_attention_heads * c.head_dim, "k": c.num_key_value_heads * c.head_dim}
    widths["v"] = widths["k"]
    rope = c.rope()

    x = g.embed(w["embed_tokens"], vocab_size=c.vocab_size, hidden_size=c.hidden_size)
    for layer in w.layers("layers", c.num_hidden_layers):
        h = g.rms_norm(x, layer["input_layernorm"], eps=c.rms_norm_eps)
        q, k, v = (
            g.linear(h, layer[f"self_attn.{p}_proj"], width, bias=c.attention_bias) for p, width in widths.items()
        )
        a = g.attention(q, k, v, head_dim=c.head_dim, causal=True, rope=rope)
        x = x + g.linear(a, layer["self_attn.o_proj"], c.hidden_size, bias=c.attention_bias)

        h = g.rms_norm(x, layer["post_attention_layernorm"], eps=c.rms_norm_eps)
        gate = g.activate(
            g.linear(h, layer["mlp.gate_proj"], c.intermediate_size, bias=c.mlp_bias),
            activation(c.hidden_act),
        )
        up = g.linear(h, layer["mlp.up_proj"], c.intermediate_size, bias=c.mlp_bias)
        x = x + g.linear(gate * up, layer["mlp.down_proj"], c.hidden_size, bias=c.mlp_bias)

    x = g.rms_norm(x, w["norm"], eps=c.rms_norm_eps)
    g.output("hidden_states", x)
    g.output("logits", g.logits(x, w["embed_tokens"] if c.tie_word_embeddings else root["lm_head"], c.vocab_size))
    return x
