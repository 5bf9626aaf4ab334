"""Gemma 2 (Riviere et al. 2024): norms before and after both sublayers, windows on every other layer, scores and
logits held below a cap, scaled embeddings. Norm weights are stored less 1."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture
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
    num_key_value_heads: int | None = 4
    head_dim: int = 256
    max_position_embeddings: int = 8192
    hidden_activation: str = "gelu_pytorch_tanh"
    rms_norm_eps: float = 1e-6
    query_pre_attn_scalar: float = 256.0
    attn_logit_softcapping: float | None = 50.0
    final_logit_softcapping: float | None = 30.0
    attention_bias: bool = False
    use_bidirectional_attention: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def check(self) -> None:
        super().check()
        for name in ("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"):
            value = getattr(self, name)
            self.require(value is None or value > 0, f"{name} is {value}; expected a number above 0")
        if self.use_bidirectional_attention:
            raise UnsupportedArchitecture(f"{self.where}: use_bidirectional_attention is not supported")

    def default_layer_type(self, index: int) -> str:
        return FULL if index % 2 else SLIDING


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("model.", "")
    rope = c.rope(c.head_dim)
    act = activation(c.hidden_activation)
    rms_norm = partial(g.rms_norm, eps=c.rms_norm_eps, shift=1.0)
    scale = c.query_pre_attn_scalar**-0.5

    x = g.embed(w["embed_tokens"], vocab_size=c.vocab_size, hidden_size=c.hidden_size, scale=c.hidden_size**0.5)
    for layer, window in zip(w.layers("layers", c.num_hidden_layers), c.windows, strict=True):
        x = g.hidden(x)
        h = rms_norm(x, layer["input_layernorm"])
        q, k, v = (g.linear(h, layer[f"self_attn.{p}_proj"], n, bias=c.attention_bias) for p, n in c.widths.items())
        a = g.attention(
            q, k, v, head_dim=c.head_dim, causal=True, rope=rope, window=window, scale=scale,
            soft_cap=c.attn_logit_softcapping,
        )  # fmt: skip
        a = g.linear(a, layer["self_attn.o_proj"], c.hidden_size, bias=c.attention_bias)
        x = x + rms_norm(a, layer["post_attention_layernorm"])

        h = rms_norm(x, layer["pre_feedforward_layernorm"])
        h = gated_ffn(g, h, layer["mlp"], c.intermediate_size, act)
        x = x + rms_norm(h, layer["post_feedforward_layernorm"])

    x = g.hidden(rms_norm(x, w["norm"]))
    g.output("hidden_states", x)
    lm = w["embed_tokens"] if c.tie_word_embeddings else root["lm_head"]
    heads.decoder(g, root, x, lm, c.vocab_size, soft_cap=c.final_logit_softcapping)
    return x
