"""ALBERT (Lan et al. 2019): a post-norm encoder whose token table is narrower than its layers, and whose layers share
their weights in groups."""

from __future__ import annotations

from dataclasses import dataclass

from qkv.checkpoint import Config as BaseConfig
from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Graph, Tensor
from qkv.models import heads
from qkv.models.common import activation

# Far above the 12 of published models. Layers share tensors, so none would be missing for any number of layers.
_MOST_LAYERS = 1024


@dataclass
class Config(BaseConfig):
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    embedding_size: int = 128
    num_hidden_groups: int = 1
    inner_group_num: int = 1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu_new"
    layer_norm_eps: float = 1e-12
    position_embedding_type: str = "absolute"
    tie_word_embeddings: bool = True

    def check(self) -> None:
        self.require_divisible("hidden_size", "num_attention_heads")
        self.require(
            self.num_hidden_groups <= self.num_hidden_layers,
            f"num_hidden_groups {self.num_hidden_groups} is more than num_hidden_layers {self.num_hidden_layers}",
        )
        layers = self.num_hidden_layers * self.inner_group_num
        self.require(
            layers <= _MOST_LAYERS,
            f"num_hidden_layers {self.num_hidden_layers} times inner_group_num {self.inner_group_num} is more than "
            f"the {_MOST_LAYERS} layers that a model may have",
        )
        if self.position_embedding_type != "absolute":
            raise UnsupportedArchitecture(
                f"{self.where}: position_embedding_type {self.position_embedding_type!r} is not supported; "
                "only 'absolute' is"
            )

    @property
    def context_length(self) -> int:
        return self.max_position_embeddings


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("albert.", "")
    e, encoder = w["embeddings"], w["encoder"]
    x = g.embed(
        e["word_embeddings"],
        vocab_size=c.vocab_size,
        hidden_size=c.embedding_size,
        positions=(e["position_embeddings"], c.max_position_embeddings),
        types=(e["token_type_embeddings"], c.type_vocab_size),
    )
    x = g.layer_norm(x, e["LayerNorm"], eps=c.layer_norm_eps)
    x = g.hidden(g.linear(x, encoder["embedding_hidden_mapping_in"], c.hidden_size, bias=True))

    for index in range(c.num_hidden_layers):
        group = encoder[f"albert_layer_groups.{index * c.num_hidden_groups // c.num_hidden_layers}"]
        for layer in group.layers("albert_layers", c.inner_group_num):
            q, k, v = (
                g.linear(x, layer[f"attention.{p}"], c.hidden_size, bias=True) for p in ("query", "key", "value")
            )
            a = g.attention(q, k, v, head_dim=c.hidden_size // c.num_attention_heads, causal=False)
            x = x + g.linear(a, layer["attention.dense"], c.hidden_size, bias=True)
            x = g.layer_norm(x, layer["attention.LayerNorm"], eps=c.layer_norm_eps)

            h = g.linear(x, layer["ffn"], c.intermediate_size, bias=True)
            h = g.activate(h, activation(c.hidden_act))
            x = x + g.linear(h, layer["ffn_output"], c.hidden_size, bias=True)
            x = g.hidden(g.layer_norm(x, layer["full_layer_layer_norm"], eps=c.layer_norm_eps))

    g.output("hidden_states", x)
    pooled = heads.pooler(g, x, w["pooler"])
    lm = root["predictions"]
    if heads.is_language_model(root, lm["dense"]):
        h = g.linear(g.wanted(x), lm["dense"], c.embedding_size, bias=True)
        h = g.layer_norm(g.activate(h, activation(c.hidden_act)), lm["LayerNorm"], eps=c.layer_norm_eps)
        decoder = e["word_embeddings"] if c.tie_word_embeddings else lm["decoder"]
        g.output("logits", g.logits(h, decoder, c.vocab_size, bias=heads.bias(c.vocab_size, lm["decoder"], lm)))
    else:
        heads.encoder(g, root, x, lambda: pooled, root["classifier"])
    return x
