"""T5 (Raffel et al. 2020), its version 1.1 and Flan-T5: pre-norm encoder and decoder with RMSNorm, without biases.
Positions are a learned bias of scores for each distance, which all layers share; scores are not scaled otherwise."""

from __future__ import annotations

from typing import Any

from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Graph, Tensor
from qkv.models.encoder_decoder import embeddings, refuse_heads
from qkv.models.relative_positions import bucketed_bias
from qkv.models.t5_config import Config

__all__ = ["Config", "build"]


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
