"""BART (Lewis et al. 2019): a post-norm encoder and decoder with learned positions, whose first two rows are unused.
A classifier's decoder reads the text again; the hidden state of its last end-of-sequence token is classified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkv.checkpoint import Weights
from qkv.errors import Error
from qkv.graph import Graph, Tensor
from qkv.models.encoder_decoder import embeddings, refuse_heads
from qkv.models.fairseq import EPS, FairseqConfig, attend, feed_forward, language_model_head


@dataclass
class Config(FairseqConfig):
    decoder_start_token_id: int | None = 2
    id2label: dict[str, Any] | None = None
    num_labels: int = 3
    normalize_before: bool | None = None
    add_final_layer_norm: bool | None = None
    static_position_embeddings: bool | None = None

    def check(self) -> None:
        super().check()
        self.refuse_flags(
            normalize_before=self.normalize_before,
            add_final_layer_norm=self.add_final_layer_norm,
            static_position_embeddings=self.static_position_embeddings,
        )

    def classified_ids(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """What the decoder of a classifier reads for a text: its tokens behind a start token, up to the place of the
        last end-of-sequence token.

        Raises:
            qkv.Error: there is no such token, or no start token.
        """
        if self.decoder_start_token_id is None:
            raise Error(f"{self.where}: decoder_start_token_id is null; a classifier's decoder starts with that token")
        ends = np.flatnonzero(np.isin(ids, [] if self.eos_token_id is None else self.eos_token_id))
        if not ends.size:
            raise Error(f"this model classifies the end-of-sequence token {self.eos_token_id}; a sequence has none")
        return np.concatenate([[self.decoder_start_token_id], ids[: ends[-1]]]).astype(np.int32)


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    refuse_heads(root, "bart", "qa_outputs")
    w = root.under("model.", "")
    memory = encoder(g, c, w, embed(g, c, w, "encoder"))
    x = decoder(g, c, w, embed(g, c, w, "decoder"), memory)
    g.output("encoder_hidden_states", memory)
    g.output("hidden_states", x)
    if "classification_head" in root:
        head = root["classification_head"]
        h = g.activate(g.linear(g.pool(x, "last"), head["dense"], c.d_model, bias=True), "tanh")
        g.output("logits", g.linear(h, head["out_proj"], len(c.id2label or ()) or c.num_labels, bias=True))
    else:
        language_model_head(g, x, c, root, w, c.vocab_size)
    return memory


def encoder(g: Graph, c: FairseqConfig, w: Weights, x: Tensor) -> Tensor:
    for layer in w.layers("encoder.layers", c.encoder_layers):
        g.hidden(x)
        x = x + attend(g, x, x, layer["self_attn"], c.encoder_attention_heads)
        x = g.layer_norm(x, layer["self_attn_layer_norm"], eps=EPS)

        x = x + feed_forward(g, x, layer, c.encoder_ffn_dim, c.activation_function)
        x = g.layer_norm(x, layer["final_layer_norm"], eps=EPS)
    return g.hidden(x)


def decoder(g: Graph, c: FairseqConfig, w: Weights, x: Tensor, memory: Tensor) -> Tensor:
    for layer in w.layers("decoder.layers", c.decoder_layers):
        g.hidden(x)
        x = x + attend(g, x, x, layer["self_attn"], c.decoder_attention_heads, causal=True)
        x = g.layer_norm(x, layer["self_attn_layer_norm"], eps=EPS)

        x = x + attend(g, x, memory, layer["encoder_attn"], c.decoder_attention_heads)
        x = g.layer_norm(x, layer["encoder_attn_layer_norm"], eps=EPS)

        x = x + feed_forward(g, x, layer, c.decoder_ffn_dim, c.activation_function)
        x = g.layer_norm(x, layer["final_layer_norm"], eps=EPS)
    return g.hidden(x)


def embed(g: Graph, c: FairseqConfig, w: Weights, side: str) -> Tensor:
    x = g.embed(
        embeddings(w, side),
        vocab_size=c.vocab_size,
        hidden_size=c.d_model,
        scale=c.embed_scale,
        positions=(w[side]["embed_positions"], c.max_position_embeddings + 2),
        position_offset=2,
        source=side == "encoder",
    )
    return g.layer_norm(x, w[side]["layernorm_embedding"], eps=EPS)
