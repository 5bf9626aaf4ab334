"""RoBERTa (Liu et al. 2019): BERT, with positions that begin behind the padding id, and heads of its own."""

from __future__ import annotations

from dataclasses import dataclass

from qkv.checkpoint import Weights
from qkv.graph import Graph, Tensor
from qkv.models import bert, heads


@dataclass
class Config(bert.Config):
    pad_token_id: int = 1

    def check(self) -> None:
        super().check()
        self.require(
            self.context_length > 0,
            f"max_position_embeddings {self.max_position_embeddings} leaves no position behind "
            f"pad_token_id {self.pad_token_id}",
        )

    @property
    def context_length(self) -> int:
        return self.max_position_embeddings - self.pad_token_id - 1


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    """Sequences are never padded, so a padding id among their tokens has a position like any other's, while
    transformers leaves it out."""
    w = root.under("roberta.", "")
    x = bert.encoder(g, c, w, position_offset=c.pad_token_id + 1)
    heads.pooler(g, x, w["pooler.dense"])

    lm, classifier = root["lm_head"], root["classifier"]
    if heads.is_language_model(root, lm["dense"]):
        h = g.activate(g.linear(g.wanted(x), lm["dense"], c.hidden_size, bias=True), "gelu")  # whatever hidden_act is
        h = g.layer_norm(h, lm["layer_norm"], eps=c.layer_norm_eps)
        decoder = w["embeddings.word_embeddings"] if c.tie_word_embeddings else lm["decoder"]
        g.output("logits", g.logits(h, decoder, c.vocab_size, bias=heads.bias(c.vocab_size, lm["decoder"], lm)))
    else:
        heads.encoder(
            g, root, x, lambda: heads.summary(g, x, classifier["dense"], "tanh"), classifier=classifier["out_proj"]
        )
    return x
