"""mBART (Liu et al. 2020): BART's embeddings, but a norm before each sublayer and one behind the last. Languages are
tokens: of the source, and the first that the decoder makes."""

from __future__ import annotations

from dataclasses import dataclass

from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Graph, Tensor
from qkv.models.bart import embed
from qkv.models.encoder_decoder import refuse_heads
from qkv.models.fairseq import EPS, FairseqConfig, attend, feed_forward, language_model_head


@dataclass
class Config(FairseqConfig):
    normalize_before: bool = True
    add_final_layer_norm: bool = True
    normalize_embedding: bool = True
    static_position_embeddings: bool | None = None

    def check(self) -> None:
        super().check()
        self.refuse_flags(static_position_embeddings=self.static_position_embeddings)
        for name in ("normalize_before", "add_final_layer_norm", "normalize_embedding"):
            if not getattr(self, name):
                raise UnsupportedArchitecture(f"{self.where}: {name} is false, which is not supported")


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    refuse_heads(root, "mbart", "qa_outputs", "classification_head")
    w = root.under("model.", "")
    memory = encoder(g, c, w)
    x = decoder(g, c, w, memory)
    g.output("encoder_hidden_states", memory)
    g.output("hidden_states", x)
    language_model_head(g, x, c, root, w, c.vocab_size)
    return memory


def encoder(g: Graph, c: Config, w: Weights) -> Tensor:
    x = embed(g, c, w, "encoder")
    for layer in w.layers("encoder.layers", c.encoder_layers):
        g.hidden(x)
        h = g.layer_norm(x, layer["self_attn_layer_norm"], eps=EPS)
        x = x + attend(g, h, h, layer["self_attn"], c.encoder_attention_heads)

        h = g.layer_norm(x, layer["final_layer_norm"], eps=EPS)
        x = x + feed_forward(g, h, layer, c.encoder_ffn_dim, c.activation_function)
    return g.hidden(g.layer_norm(x, w["encoder.layer_norm"], eps=EPS))


def decoder(g: Graph, c: Config, w: Weights, memory: Tensor) -> Tensor:
    x = embed(g, c, w, "decoder")
    for layer in w.layers("decoder.layers", c.decoder_layers):
        g.hidden(x)
        h = g.layer_norm(x, layer["self_attn_layer_norm"], eps=EPS)
        x = x + attend(g, h, h, layer["self_attn"], c.decoder_attention_heads, causal=True)

        h = g.layer_norm(x, layer["encoder_attn_layer_norm"], eps=EPS)
        x = x + attend(g, h, memory, layer["encoder_attn"], c.decoder_attention_heads)

        h = g.layer_norm(x, layer["final_layer_norm"], eps=EPS)
        x = x + feed_forward(g, h, layer, c.decoder_ffn_dim, c.activation_function)
    return g.hidden(g.layer_norm(x, w["decoder.layer_norm"], eps=EPS))
