"""DistilBERT (Sanh et al. 2019): BERT with half the layers, without token types and pooler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qkv.checkpoint import Config as BaseConfig
from qkv.checkpoint import Weights
from qkv.graph import Constant, Graph, Tensor
from qkv.models import heads
from qkv.models.common import activation
from qkv.models.sinusoids import check_table, sinusoids

EPS = 1e-12  # of all its norms


@dataclass
class Config(BaseConfig):
    ALIASES: ClassVar = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}

    vocab_size: int
    dim: int
    n_layers: int
    n_heads: int
    hidden_dim: int
    max_position_embeddings: int = 512
    sinusoidal_pos_embds: bool = False
    activation: str = "gelu"
    tie_word_embeddings: bool = True

    def check(self) -> None:
        self.require_divisible("dim", "n_heads")
        if self.sinusoidal_pos_embds:
            check_table(self, "max_position_embeddings", "dim")

    @property
    def context_length(self) -> int:
        return self.max_position_embeddings


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("distilbert.", "")
    e = w["embeddings"]
    positions: tuple[Weights, int] | Constant = (e["position_embeddings"], c.max_position_embeddings)
    if c.sinusoidal_pos_embds and "position_embeddings" not in e:  # most checkpoints hold the computed table
        positions = sinusoids(c.max_position_embeddings, c.dim, interleaved=True)
    x = g.embed(
        e["word_embeddings"],
        vocab_size=c.vocab_size,
        hidden_size=c.dim,
        positions=positions,
    )
    x = g.hidden(g.layer_norm(x, e["LayerNorm"], eps=EPS))

    for layer in w.layers("transformer.layer", c.n_layers):
        q, k, v = (g.linear(x, layer[f"attention.{p}_lin"], c.dim, bias=True) for p in "qkv")
        a = g.attention(q, k, v, head_dim=c.dim // c.n_heads, causal=False)
        x = x + g.linear(a, layer["attention.out_lin"], c.dim, bias=True)
        x = g.layer_norm(x, layer["sa_layer_norm"], eps=EPS)

        h = g.linear(x, layer["ffn.lin1"], c.hidden_dim, bias=True)
        h = g.activate(h, activation(c.activation))
        x = x + g.linear(h, layer["ffn.lin2"], c.dim, bias=True)
        x = g.hidden(g.layer_norm(x, layer["output_layer_norm"], eps=EPS))

    g.output("hidden_states", x)
    if heads.is_language_model(root, root["vocab_transform"]):
        h = g.linear(g.wanted(x), root["vocab_transform"], c.dim, bias=True)
        h = g.layer_norm(g.activate(h, activation(c.activation)), root["vocab_layer_norm"], eps=EPS)
        projector = root["vocab_projector"]
        decoder = e["word_embeddings"] if c.tie_word_embeddings else projector
        g.output("logits", g.logits(h, decoder, c.vocab_size, bias=heads.bias(c.vocab_size, projector)))
    else:
        heads.encoder(
            g, root, x, lambda: heads.summary(g, x, root["pre_classifier"], "relu"), classifier=root["classifier"]
        )
    return x
