"""Gemma 3's language model (Kamath et al. 2025): Gemma 2 with a norm of each head of queries and keys in place of the
cap on scores, five layers with windows for each without, and another base of rotary positions in each kind."""

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
from qkv.models.rope import Parameters, RotaryPositions
from qkv.models.windows import FULL, SLIDING, LayerWindows


@dataclass(kw_only=True)
class Config(GroupedHeads, LayerWindows, RotaryPositions):
    vocab_size: int = 262_208
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    head_dim: int = 256
    max_position_embeddings: int = 131_072
    hidden_activation: str = "gelu_pytorch_tanh"
    rms_norm_eps: float = 1e-6
    query_pre_attn_scalar: float = 256.0
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    sliding_window_pattern: int = 6
    rope_theta: float = 1_000_000.0
    rope_local_base_freq: float = 10_000.0
    attention_bias: bool = False
    use_bidirectional_attention: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def check(self) -> None:
        super().check()
        for name in ("query_pre_attn_scalar", "final_logit_softcapping"):
            value = getattr(self, name)
            self.require(value is None or value > 0, f"{name} is {value}; expected a number above 0")
        # each kind of layer has an original_max_position_embeddings of its own, in rope_parameters
        for name in ("attn_logit_softcapping", "use_bidirectional_attention", "original_max_position_embeddings"):
            if getattr(self, name):
                raise UnsupportedArchitecture(f"{self.where}: {name} is not supported for gemma3_text")

    def default_layer_type(self, index: int) -> str:
        return SLIDING if (index + 1) % self.sliding_window_pattern else FULL

    def parameters(self) -> Parameters:
        return self.parameters_of(FULL)

    def parameters_of(self, layer_type: str) -> Parameters:
        """Older files have a base for each kind of layer, and rope_scaling for those without a window."""
        given = self.rope_parameters or {}
        good = all(name in (FULL, SLIDING) and isinstance(value, dict | None) for name, value in given.items())
        self.require(good, f"rope_parameters is {given!r:.60}; expected an object each for {FULL!r} and {SLIDING!r}")
        values = given.get(layer_type) or {}
        if layer_type == SLIDING:
            return Parameters(self, f"rope_parameters.{layer_type}", values, self.rope_local_base_freq)
        return Parameters(self, f"rope_parameters.{layer_type}", values | (self.rope_scaling or {}), self.rope_theta)


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("model.", "")
    ropes = {kind: c.parameters_of(kind).rope(c.head_dim) for kind in (FULL, SLIDING)}
    act = activation(c.hidden_activation)
    rms_norm = partial(g.rms_norm, eps=c.rms_norm_eps, shift=1.0)
    scale = c.query_pre_attn_scalar**-0.5

    x = g.embed(w["embed_tokens"], vocab_size=c.vocab_size, hidden_size=c.hidden_size, scale=c.hidden_size**0.5)
    layers = w.layers("layers", c.num_hidden_layers)
    for layer, kind, window in zip(layers, c.types_of_layers, c.windows, strict=True):
        x = g.hidden(x)
        h = rms_norm(x, layer["input_layernorm"])
        q, k, v = (g.linear(h, layer[f"self_attn.{p}_proj"], n, bias=c.attention_bias) for p, n in c.widths.items())
        q = rms_norm(q, layer["self_attn.q_norm"], head_dim=c.head_dim)
        k = rms_norm(k, layer["self_attn.k_norm"], head_dim=c.head_dim)
        a = g.attention(q, k, v, head_dim=c.head_dim, causal=True, rope=ropes[kind], window=window, scale=scale)
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
