"""BLOOM (Le Scao et al. 2022): ALiBi instead of positions, a norm behind the token embeddings, and one fused q/k/v
projection with the three parts of each head together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qkv.checkpoint import Config as BaseConfig
from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Graph, Tensor
from qkv.models import heads
from qkv.models.alibi import alibi_slopes, check_heads


@dataclass
class Config(BaseConfig):
    ALIASES: ClassVar = {"n_embed": "hidden_size", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer"}

    vocab_size: int
    hidden_size: int
    n_layer: int
    n_head: int
    layer_norm_epsilon: float = 1e-5
    apply_residual_connection_post_layernorm: bool = False
    pretraining_tp: int = 1
    slow_but_exact: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def check(self) -> None:
        self.require_divisible("hidden_size", "n_head")
        check_heads(self, "n_head")
        if self.slow_but_exact and self.pretraining_tp > 1:
            raise UnsupportedArchitecture(
                f"{self.where}: bloom with slow_but_exact: it leaves out two biases of each layer"
            )

    @property
    def context_length(self) -> None:
        """ALiBi knows distances of any size."""


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("transformer.", "")
    hidden, inner = c.hidden_size, 4 * c.hidden_size
    slopes = alibi_slopes(c.n_head)
    x = g.embed(w["word_embeddings"], vocab_size=c.vocab_size, hidden_size=hidden)
    x = g.layer_norm(x, w["word_embeddings_layernorm"], eps=c.layer_norm_epsilon)
    for layer in w.layers("h", c.n_layer):
        g.hidden(x)
        h = g.layer_norm(x, layer["input_layernorm"], eps=c.layer_norm_epsilon)
        # [heads, 3, head_dim]
        fused = layer["self_attention.query_key_value"]
        q, k, v = g.linears(h, fused, [hidden] * 3, bias=True, groups=c.n_head)
        a = g.attention(q, k, v, head_dim=hidden // c.n_head, causal=True, alibi_slopes=slopes)
        residual = h if c.apply_residual_connection_post_layernorm else x
        x = residual + g.linear(a, layer["self_attention.dense"], hidden, bias=True)

        h = g.layer_norm(x, layer["post_attention_layernorm"], eps=c.layer_norm_epsilon)
        residual = h if c.apply_residual_connection_post_layernorm else x
        h = g.activate(g.linear(h, layer["mlp.dense_h_to_4h"], inner, bias=True), "gelu_tanh")
        x = residual + g.linear(h, layer["mlp.dense_4h_to_h"], hidden, bias=True)

    x = g.hidden(g.layer_norm(x, w["ln_f"], eps=c.layer_norm_epsilon))
    g.output("hidden_states", x)
    heads.decoder(g, root, x, w["word_embeddings"] if c.tie_word_embeddings else root["lm_head"], c.vocab_size)
    return x
