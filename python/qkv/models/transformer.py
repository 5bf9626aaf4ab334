"""The Transformer of "Attention Is All You Need" (Vaswani et al. 2017), an encoder and a decoder, from a config that is
qkv's own. It is made of the arguments of torch.nn.Transformer:

    model_type "transformer", d_model, nhead, num_encoder_layers, num_decoder_layers, dim_feedforward,
    activation ("relu"), layer_norm_eps (1e-5), norm_first (false), bias (true: of linear layers and norms)

and of what that class leaves to its users:

    vocab_size, target_vocab_size (vocab_size): of the two tables of embeddings
    scale_embeddings (true): they are multiplied by sqrt(d_model)
    sinusoids ("interleaved"): sin and cos of a frequency side by side as in the paper, or "concatenated"
    max_positions (1024), position_offset (0): the first token has the position of that number
    final_norm (norm_first): a norm behind the last layer, which torch.nn.Transformer has whatever norm_first is
    share_embeddings (false): one table for source and target
    tie_output (true): the output layer is the target's table
    decoder_start_token_id, eos_token_id

Tensors: transformer.* as in the state_dict of torch.nn.Transformer, source_embedding.weight, target_embedding.weight
(not if shared), output.weight (not if tied), and output.bias if there is one.
"""

from __future__ import annotations

from dataclasses import dataclass

from qkv.checkpoint import Config as BaseConfig
from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Graph, Tensor
from qkv.models.common import activation
from qkv.models.sinusoids import sinusoids


@dataclass
class Config(BaseConfig):
    ZERO_OK = frozenset({"position_offset"})

    vocab_size: int
    d_model: int
    nhead: int
    num_encoder_layers: int
    num_decoder_layers: int
    dim_feedforward: int
    target_vocab_size: int | None = None
    activation: str = "relu"
    layer_norm_eps: float = 1e-5
    norm_first: bool = False
    bias: bool = True
    scale_embeddings: bool = True
    sinusoids: str = "interleaved"
    max_positions: int = 1024
    position_offset: int = 0
    final_norm: bool | None = None
    share_embeddings: bool = False
    tie_output: bool = True
    decoder_start_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def check(self) -> None:
        self.require_divisible("d_model", "nhead")
        self.target_vocab_size = self.target_vocab_size or self.vocab_size
        self.require(
            not self.share_embeddings or self.target_vocab_size == self.vocab_size,
            f"share_embeddings, but vocab_size is {self.vocab_size} and target_vocab_size {self.target_vocab_size}",
        )
        if self.sinusoids not in ("interleaved", "concatenated"):
            raise UnsupportedArchitecture(f"{self.where}: sinusoids {self.sinusoids!r}: interleaved or concatenated")
        if self.final_norm is None:
            self.final_norm = self.norm_first

    @property
    def context_length(self) -> int:
        return self.max_positions


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
