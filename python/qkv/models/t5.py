"""T5 (Raffel et al. 2020), its version 1.1 and Flan-T5: pre-norm encoder and decoder with RMSNorm, without biases.
Positions are a learned bias of scores for each distance, which all layers share; scores are not scaled otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from qkv.checkpoint import Config as BaseConfig
from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Graph, Tensor
from qkv.models.common import activation
from qkv.models.encoder_decoder import embeddings, refuse_heads
from qkv.models.relative_positions import bucketed_bias

# Of the distances to one side, in all heads: T5 11B, the largest, has 16,384.
_MOST_BIASES = 2**20


@dataclass
class Config(BaseConfig):
    ALIASES: ClassVar = {
        "hidden_size": "d_model",
        "head_dim": "d_kv",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    }

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    num_decoder_layers: int | None = None
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"
    dense_act_fn: str | None = None  # what feed_forward_proj says, once more
    is_gated_act: bool | None = None
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None
    decoder_start_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 1

    def check(self) -> None:
        if not self.is_encoder_decoder:
            raise UnsupportedArchitecture(
                f"{self.where}: t5 without is_encoder_decoder: only both together are supported"
            )
        exact = self.relative_attention_num_buckets // 2
        self.require(exact >= 2, f"relative_attention_num_buckets {self.relative_attention_num_buckets} are too few")
        self.require(
            self.relative_attention_max_distance > exact,
            f"relative_attention_max_distance {self.relative_attention_max_distance} is within the first {exact} "
            "buckets, which are for one distance each",
        )
        biases = self.num_heads * self.relative_attention_max_distance
        self.require(
            biases <= _MOST_BIASES,
            f"num_heads {self.num_heads} times relative_attention_max_distance {self.relative_attention_max_distance} "
            f"is more than the {_MOST_BIASES} biases that attention may have",
        )

        agree = self.dense_act_fn is None or activation(self.dense_act_fn) == self.function
        agree = agree and self.is_gated_act in (None, self.gated)
        self.require(
            agree,
            f"feed_forward_proj {self.feed_forward_proj!r:.60} is not what dense_act_fn {self.dense_act_fn!r:.60} and "
            f"is_gated_act {self.is_gated_act} say",
        )

    @property
    def context_length(self) -> None:
        """Positions have no end: far distances share a bucket."""

    @property
    def gated(self) -> bool:
        return self.feed_forward_proj.startswith("gated-")

    @property
    def function(self) -> str:
        """The kernel's name; gated-gelu means the tanh approximation."""
        name = self.feed_forward_proj.removeprefix("gated-")
        return activation("gelu_new" if self.gated and name == "gelu" else name)

    @property
    def scales_output(self) -> bool:
        """Where the output layer is the table of embeddings. transformers 5 writes scale_decoder_outputs, and calls
        version 1.1 tied, which has an output layer of its own."""
        return self.tie_word_embeddings if self.scale_decoder_outputs is None else self.scale_decoder_outputs


def build(g: Graph, c: Config, w: Weights) -> Tensor:
    refuse_heads(w, "t5", "transformer", "classification_head", "classifier", "qa_outputs")
    if "decoder" not in w:
        raise UnsupportedArchitecture("t5 without a decoder: only both together are supported")
    table = {side: embeddings(w, side, "lm_head") for side in ("encoder", "decoder")}
    source = stack(g, c, w["encoder"], table["encoder"], c.num_layers)
    x = stack(g, c, w["decoder"], table["decoder"], c.num_decoder_layers or c.num_layers, source)
    g.output("encoder_hidden_states", source)
    g.output("hidden_states", x)
    scaled = g.scale(x, c.d_model**-0.5) if c.scales_output else x
    g.output("logits", g.logits(scaled, w["lm_head"] if "lm_head" in w else table["decoder"], c.vocab_size))
    return source


def stack(g: Graph, c: Config, w: Weights, table: Weights, layers: int, source: Tensor | None = None) -> Tensor:
    """The encoder, or the decoder that attends to `source`."""
    x = g.embed(table, vocab_size=c.vocab_size, hidden_size=c.d_model, source=source is None)
    bias = bucketed_bias(
        w["block.0.layer.0.SelfAttention.relative_attention_bias"],
        c.num_heads,
        buckets=c.relative_attention_num_buckets,
        max_distance=c.relative_attention_max_distance,
        bidirectional=source is None,
    )
    for layer in w.layers("block", layers):
        g.hidden(x)
        h = g.rms_norm(x, layer["layer.0.layer_norm"], eps=c.layer_norm_epsilon)
        causal = source is not None
        x = x + attend(g, c, h, h, layer["layer.0.SelfAttention"], causal=causal, relative_bias=bias)
        if source is not None:
            h = g.rms_norm(x, layer["layer.1.layer_norm"], eps=c.layer_norm_epsilon)
            x = x + attend(g, c, h, source, layer["layer.1.EncDecAttention"], causal=False)
        last = layer["layer.1" if source is None else "layer.2"]
        h = g.rms_norm(x, last["layer_norm"], eps=c.layer_norm_epsilon)
        x = x + feed_forward(g, c, h, last["DenseReluDense"])
    return g.hidden(g.rms_norm(x, w["final_layer_norm"], eps=c.layer_norm_epsilon))


def attend(g: Graph, c: Config, x: Tensor, memory: Tensor, w: Weights, **options: Any) -> Tensor:
    inner = c.num_heads * c.d_kv
    q = g.linear(x, w["q"], inner, bias=False)
    k, v = (g.linear(memory, w[p], inner, bias=False) for p in "kv")
    return g.linear(g.attention(q, k, v, head_dim=c.d_kv, scale=1.0, **options), w["o"], c.d_model, bias=False)


def feed_forward(g: Graph, c: Config, x: Tensor, w: Weights) -> Tensor:
    h = g.activate(g.linear(x, w["wi_0" if c.gated else "wi"], c.d_ff, bias=False), c.function)
    if c.gated:
        h = h * g.linear(x, w["wi_1"], c.d_ff, bias=False)
    return g.linear(h, w["wo"], c.d_model, bias=False)
