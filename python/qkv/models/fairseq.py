"""What models that began in fairseq (Ott et al. 2019) share: BART, mBART, and Marian's, which were made to look like
them. Their config, and the layers between the norms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qkv.checkpoint import Config as BaseConfig
from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Graph, Tensor
from qkv.models.common import activation
from qkv.models.encoder_decoder import embeddings

# fairseq's eps of every LayerNorm
EPS = 1e-5


@dataclass
class FairseqConfig(BaseConfig):
    ALIASES: ClassVar = {"hidden_size": "d_model", "num_attention_heads": "encoder_attention_heads"}

    vocab_size: int
    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_layers: int
    decoder_attention_heads: int
    decoder_ffn_dim: int
    max_position_embeddings: int = 1024
    activation_function: str = "gelu"
    scale_embedding: bool = False
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int | None = None
    forced_bos_token_id: int | list[int] | None = None
    forced_eos_token_id: int | list[int] | None = 2
    bad_words_ids: list[list[int]] | None = None

    def check(self) -> None:
        self.require_divisible("d_model", "encoder_attention_heads")
        self.require_divisible("d_model", "decoder_attention_heads")
        if not self.is_encoder_decoder:
            raise UnsupportedArchitecture(
                f"{self.where}: is_encoder_decoder is false: only encoder and decoder together are supported"
            )

    def refuse_flags(self, **flags: bool | None) -> None:
        """Old configs say things that the architecture fixes. `flags`: what they say, which must not be true."""
        for name, value in flags.items():
            if value:
                raise UnsupportedArchitecture(f"{self.where}: {name} is true, which is not supported")

    @property
    def context_length(self) -> int:
        """Of the encoder, and of the decoder."""
        return self.max_position_embeddings

    @property
    def embed_scale(self) -> float:
        return float(self.d_model**0.5) if self.scale_embedding else 1.0


def attend(g: Graph, x: Tensor, memory: Tensor, w: Weights, heads: int, *, causal: bool = False) -> Tensor:
    """Attention of x to itself, or to the encoder's `memory`."""
    q = g.linear(x, w["q_proj"], x.width, bias=True)
    k, v = (g.linear(memory, w[p], x.width, bias=True) for p in ("k_proj", "v_proj"))
    a = g.attention(q, k, v, head_dim=x.width // heads, causal=causal)
    return g.linear(a, w["out_proj"], x.width, bias=True)


def feed_forward(g: Graph, x: Tensor, w: Weights, inner: int, function: str) -> Tensor:
    h = g.activate(g.linear(x, w["fc1"], inner, bias=True), activation(function))
    return g.linear(h, w["fc2"], x.width, bias=True)


def language_model_head(g: Graph, x: Tensor, c: FairseqConfig, root: Weights, w: Weights, vocab_size: int) -> None:
    """Logits, unless the checkpoint is of a model without a head: not tied, and no layer of its own."""
    if "lm_head" in root or c.tie_word_embeddings:
        table = root["lm_head"] if "lm_head" in root else embeddings(w, "decoder")
        bias = root.param("final_logits_bias", (1, vocab_size)) if "final_logits_bias" in root else None
        g.output("logits", g.logits(x, table, vocab_size, bias=bias))
