"""Marian (Junczys-Dowmunt et al. 2018), the models of OPUS-MT: BART's post-norm layers, which are the first
Transformer's, on embeddings without a norm and with sinusoidal positions, which no checkpoint needs to hold. Both
languages share a vocabulary, or each has its own."""

from __future__ import annotations

from dataclasses import dataclass

from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Graph, Tensor
from qkv.models.bart import decoder, encoder
from qkv.models.encoder_decoder import embeddings
from qkv.models.fairseq import FairseqConfig, language_model_head
from qkv.models.sinusoids import check_table, sinusoids


@dataclass
class Config(FairseqConfig):
    decoder_vocab_size: int | None = None
    share_encoder_decoder_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 0
    decoder_start_token_id: int | None = 58100
    forced_eos_token_id: int | list[int] | None = 0
    normalize_before: bool | None = None
    normalize_embedding: bool | None = None
    add_final_layer_norm: bool | None = None
    static_position_embeddings: bool = True

    def check(self) -> None:
        super().check()
        check_table(self, "max_position_embeddings", "d_model")
        self.refuse_flags(
            normalize_before=self.normalize_before,
            normalize_embedding=self.normalize_embedding,
            add_final_layer_norm=self.add_final_layer_norm,
        )
        if not self.static_position_embeddings:
            raise UnsupportedArchitecture(f"{self.where}: static_position_embeddings is false, which is not supported")
        self.decoder_vocab_size = self.decoder_vocab_size or self.vocab_size
        self.require(
            not self.share_encoder_decoder_embeddings or self.decoder_vocab_size == self.vocab_size,
            f"share_encoder_decoder_embeddings, but vocab_size is {self.vocab_size} and decoder_vocab_size "
            f"{self.decoder_vocab_size}",
        )


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    assert c.decoder_vocab_size
    w = root.under("model.", "")
    memory = encoder(g, c, w, embed(g, c, w, "encoder", c.vocab_size))
    x = decoder(g, c, w, embed(g, c, w, "decoder", c.decoder_vocab_size), memory)
    g.output("encoder_hidden_states", memory)
    g.output("hidden_states", x)
    language_model_head(g, x, c, root, w, c.decoder_vocab_size)
    return memory


def embed(g: Graph, c: Config, w: Weights, side: str, vocab_size: int) -> Tensor:
    return g.embed(
        embeddings(w, side),
        vocab_size=vocab_size,
        hidden_size=c.d_model,
        scale=c.embed_scale,
        positions=sinusoids(c.max_position_embeddings, c.d_model, interleaved=False),
        source=side == "encoder",
    )
