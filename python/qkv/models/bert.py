"""BERT (Devlin et al. 2018): a post-norm encoder with learned positions and token types."""

from __future__ import annotations

from dataclasses import dataclass

from qkv.checkpoint import Config as BaseConfig
from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Graph, Tensor
from qkv.models.common import activation


@dataclass
class Config(BaseConfig):
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    position_embedding_type: str = "absolute"
    is_decoder: bool = False

    def check(self) -> None:
        self.require_divisible("hidden_size", "num_attention_heads")
        if self.position_embedding_type != "absolute":
            raise UnsupportedArchitecture(
                f"bert with position_embedding_type {self.position_embedding_type!r}: only 'absolute' is supported"
            )
        if self.is_decoder:
            raise UnsupportedArchitecture("bert with is_decoder: only the encoder is supported")

    @property
    def context_length(self) -> int:
        return self.max_position_embeddings


def build(g: Graph, c: Config, w: Weights) -> Tensor:
    w = w.under("bert.", "")
    e = w["embeddings"]
    x = g.embed(
        e["word_embeddings"],
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        positions=(e["position_embeddings"], c.max_position_embeddings),
        types=(e["token_type_embeddings"], c.type_vocab_size),
    )
    x = g.layer_norm(x, e["LayerNorm"], eps=c.layer_norm_eps)

    for layer in w.layers("encoder.layer", c.num_hidden_layers):
        q, k, v = (
            g.linear(x, layer[f"attention.self.{p}"], c.hidden_size, bias=True) for p in ("query", "key", "value")
        )
        a = g.attention(q, k, v, head_dim=c.hidden_size // c.num_attention_heads, causal=False)
        x = x + g.linear(a, layer["attention.output.dense"], c.hidden_size, bias=True)
        x = g.layer_norm(x, layer["attention.output.LayerNorm"], eps=c.layer_norm_eps)

        h = g.linear(x, layer["intermediate.dense"], c.intermediate_size, bias=True)
        h = g.activate(h, activation(c.hidden_act))
        x = x + g.linear(h, layer["output.dense"], c.hidden_size, bias=True)
        x = g.layer_norm(x, layer["output.LayerNorm"], eps=c.layer_norm_eps)

    g.output("hidden_states", x)
    return x
