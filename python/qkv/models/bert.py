"""BERT (Devlin et al. 2018): a post-norm encoder with learned positions and token types."""

from __future__ import annotations

from dataclasses import dataclass

from qkv.checkpoint import Config as BaseConfig
from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Graph, Tensor
from qkv.models import heads
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
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True

    def check(self) -> None:
        self.require_divisible("hidden_size", "num_attention_heads")
        if self.position_embedding_type != "absolute":
            raise UnsupportedArchitecture(
                f"{self.where}: position_embedding_type {self.position_embedding_type!r} is not supported; "
                "only 'absolute' is"
            )
        for option in ("is_decoder", "add_cross_attention"):
            if getattr(self, option):
                raise UnsupportedArchitecture(f"{self.where}: {option} is not supported; only the encoder is")

    @property
    def context_length(self) -> int:
        return self.max_position_embeddings


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("bert.", "")
    x = encoder(g, c, w)
    pooled = heads.pooler(g, x, w["pooler.dense"])

    lm = root["cls.predictions"]
    if heads.is_language_model(root, lm["transform.dense"]):
        h = g.linear(g.wanted(x), lm["transform.dense"], c.hidden_size, bias=True)
        h = g.activate(h, activation(c.hidden_act))
        h = g.layer_norm(h, lm["transform.LayerNorm"], eps=c.layer_norm_eps)
        decoder = w["embeddings.word_embeddings"] if c.tie_word_embeddings else lm["decoder"]
        g.output("logits", g.logits(h, decoder, c.vocab_size, bias=heads.bias(c.vocab_size, lm["decoder"], lm)))
    else:
        heads.encoder(g, root, x, lambda: pooled, root["classifier"])
    return x


def encoder(g: Graph, c: Config, w: Weights, *, position_offset: int = 0) -> Tensor:
    """The first token's position is row `position_offset` of the table."""
    e = w["embeddings"]
    x = g.embed(
        e["word_embeddings"],
        vocab_size=c.vocab_size,
        hidden_size=c.hidden_size,
        positions=(e["position_embeddings"], c.max_position_embeddings),
        position_offset=position_offset,
        types=(e["token_type_embeddings"], c.type_vocab_size),
    )
    x = g.hidden(g.layer_norm(x, e["LayerNorm"], eps=c.layer_norm_eps))

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
        x = g.hidden(g.layer_norm(x, layer["output.LayerNorm"], eps=c.layer_norm_eps))

    g.output("hidden_states", x)
    return x
