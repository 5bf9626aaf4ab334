"""The Transformer of "Attention Is All You Need" (Vaswani et al. 2017), an encoder and a decoder, with the norms behind
each sublayer as in the paper or before it. The config is qkv's own: see models/transformer_config.py."""

from __future__ import annotations

from qkv.checkpoint import Weights
from qkv.graph import Graph, Tensor
from qkv.models.common import activation
from qkv.models.sinusoids import sinusoids
from qkv.models.transformer_config import Config

__all__ = ["Config", "build"]


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    assert c.target_vocab_size
    w, tables = root["transformer"], {side: root[f"{side}_embedding"] for side in ("source", "target")}
    if c.share_embeddings:
        tables["target"] = tables["source"]
    memory = encoder(g, c, w["encoder"], embed(g, c, tables["source"], c.vocab_size, source=True))
    x = decoder(g, c, w["decoder"], embed(g, c, tables["target"], c.target_vocab_size), memory)
    g.output("encoder_hidden_states", memory)
    g.output("hidden_states", x)
    bias = root["output"].param("bias", (c.target_vocab_size,)) if "output.bias" in root else None
    table = tables["target"] if c.tie_output else root["output"]
    g.output("logits", g.logits(x, table, c.target_vocab_size, bias=bias))
    return memory


def embed(g: Graph, c: Config, table: Weights, vocab_size: int, *, source: bool = False) -> Tensor:
    rows = c.max_positions + c.position_offset
    return g.embed(
        table,
        vocab_size=vocab_size,
        hidden_size=c.d_model,
        scale=c.d_model**0.5 if c.scale_embeddings else 1.0,
        positions=sinusoids(rows, c.d_model, interleaved=c.sinusoids == "interleaved"),
        position_offset=c.position_offset,
        source=source,
    )


def encoder(g: Graph, c: Config, w: Weights, x: Tensor) -> Tensor:
    for layer in w.layers("layers", c.num_encoder_layers):
        g.hidden(x)
        h = norm(g, c, x, layer["norm1"], c.norm_first)
        x = norm(g, c, x + attend(g, c, h, h, layer["self_attn"]), layer["norm1"], not c.norm_first)

        h = norm(g, c, x, layer["norm2"], c.norm_first)
        x = norm(g, c, x + feed_forward(g, c, h, layer), layer["norm2"], not c.norm_first)
    return g.hidden(norm(g, c, x, w["norm"], c.final_norm))


def decoder(g: Graph, c: Config, w: Weights, x: Tensor, memory: Tensor) -> Tensor:
    for layer in w.layers("layers", c.num_decoder_layers):
        g.hidden(x)
        h = norm(g, c, x, layer["norm1"], c.norm_first)
        x = norm(g, c, x + attend(g, c, h, h, layer["self_attn"], causal=True), layer["norm1"], not c.norm_first)

        h = norm(g, c, x, layer["norm2"], c.norm_first)
        x = norm(g, c, x + attend(g, c, h, memory, layer["multihead_attn"]), layer["norm2"], not c.norm_first)

        h = norm(g, c, x, layer["norm3"], c.norm_first)
        x = norm(g, c, x + feed_forward(g, c, h, layer), layer["norm3"], not c.norm_first)
    return g.hidden(norm(g, c, x, w["norm"], c.final_norm))


def norm(g: Graph, c: Config, x: Tensor, w: Weights, here: bool | None) -> Tensor:
    return g.layer_norm(x, w, eps=c.layer_norm_eps, bias=c.bias) if here else x


def attend(g: Graph, c: Config, x: Tensor, memory: Tensor, w: Weights, *, causal: bool = False) -> Tensor:
    widths = [c.d_model] * 3
    q, *_ = g.linears(x, w, widths, bias=c.bias, prefix="in_proj_")
    _, k, v = g.linears(memory, w, widths, bias=c.bias, prefix="in_proj_")
    a = g.attention(q, k, v, head_dim=c.d_model // c.nhead, causal=causal)
    return g.linear(a, w["out_proj"], c.d_model, bias=c.bias)


def feed_forward(g: Graph, c: Config, x: Tensor, w: Weights) -> Tensor:
    h = g.activate(g.linear(x, w["linear1"], c.dim_feedforward, bias=c.bias), activation(c.activation))
    return g.linear(h, w["linear2"], c.d_model, bias=c.bias)
