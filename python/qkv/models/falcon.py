"""Falcon (Almazrouei et al. 2023), in three kinds: 7B has one key/value head and runs the feed-forward layer beside
attention off one norm; 40B and later ("new decoder architecture") have groups of query heads with a key/value head each
and mostly a norm of its own for either side; RW is a GPT with ALiBi and biases.

Falcon's ALiBi is added before scores are divided by sqrt(head_dim), unlike the paper's. It is bfloat16 whatever the
model's own type, as in transformers: slope, position in the text and their product are rounded, in steps that grow with
the text, of 2 beyond 256."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qkv.checkpoint import Weights
from qkv.graph import Graph, Tensor
from qkv.models import heads
from qkv.models.alibi import alibi_slopes, check_heads
from qkv.models.common import activation
from qkv.models.rope import RotaryPositions


@dataclass(kw_only=True)
class Config(RotaryPositions):
    # spellings of 2023's RefinedWeb and RefinedWebModel, which became falcon
    ALIASES: ClassVar = {
        "n_embed": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_head_kv": "num_kv_heads",
    }

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_kv_heads: int | None = None
    ffn_hidden_size: int | None = None
    activation: str = "gelu"
    layer_norm_epsilon: float = 1e-5
    alibi: bool = False
    bias: bool = False
    multi_query: bool = True
    parallel_attn: bool = True
    new_decoder_architecture: bool | None = None
    num_ln_in_parallel_attn: int | None = None
    tie_word_embeddings: bool = True
    model_type: str = "falcon"
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def check(self) -> None:
        super().check()
        self.require_divisible("hidden_size", "num_attention_heads")
        if self.alibi:
            check_heads(self, "num_attention_heads")
        if self.new_decoder_architecture is None:
            self.new_decoder_architecture = self.model_type == "RefinedWeb"  # 40B, before there was this key
        new, norms = self.new_decoder_architecture, self.num_ln_in_parallel_attn
        if new:
            self.require(self.parallel_attn, "new_decoder_architecture needs parallel_attn, which is false")
            self.require(norms in (None, 1, 2), f"num_ln_in_parallel_attn is {norms}; expected 1 or 2")
            self.num_kv_heads = self.num_kv_heads or self.num_attention_heads
            self.require_divisible("num_attention_heads", "num_kv_heads")
        elif self.multi_query:
            self.num_kv_heads = 1
        else:
            agree = self.num_kv_heads in (None, self.num_attention_heads)
            self.require(agree, f"num_kv_heads {self.num_kv_heads} needs new_decoder_architecture, which is false")
            self.num_kv_heads = self.num_attention_heads
        if self.parallel_attn and not new:
            self.require(norms in (None, 1), f"num_ln_in_parallel_attn {norms} needs new_decoder_architecture")
        self.num_ln_in_parallel_attn = norms if self.parallel_attn and norms else 2 if new else 1

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def context_length(self) -> int | None:
        return None if self.alibi else super().context_length


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("transformer.", "")
    assert c.num_kv_heads
    hidden, inner, kv_width = c.hidden_size, c.ffn_hidden_size or 4 * c.hidden_size, c.num_kv_heads * c.head_dim
    rope, slopes = (None, alibi_slopes(c.num_attention_heads)) if c.alibi else (c.rope(c.head_dim), None)
    x = g.embed(w["word_embeddings"], vocab_size=c.vocab_size, hidden_size=hidden)
    for layer in w.layers("h", c.num_hidden_layers):
        g.hidden(x)
        two_norms = c.num_ln_in_parallel_attn == 2
        h = g.layer_norm(x, layer["ln_attn" if two_norms else "input_layernorm"], eps=c.layer_norm_epsilon)
        # [kv_heads, query heads of each + 2, head_dim]
        fused, widths = layer["self_attention.query_key_value"], [hidden, kv_width, kv_width]
        q, k, v = g.linears(h, fused, widths, bias=c.bias, groups=c.num_kv_heads)
        a = g.attention(
            q, k, v, head_dim=c.head_dim, causal=True, rope=rope, alibi_slopes=slopes, rounded_alibi=c.alibi
        )
        attended = x + g.linear(a, layer["self_attention.dense"], hidden, bias=c.bias)

        if two_norms:
            h = g.layer_norm(x, layer["ln_mlp"], eps=c.layer_norm_epsilon)
        elif not c.parallel_attn:
            h = g.layer_norm(attended, layer["post_attention_layernorm"], eps=c.layer_norm_epsilon)
        h = g.activate(g.linear(h, layer["mlp.dense_h_to_4h"], inner, bias=c.bias), activation(c.activation))
        x = attended + g.linear(h, layer["mlp.dense_4h_to_h"], hidden, bias=c.bias)

    x = g.hidden(g.layer_norm(x, w["ln_f"], eps=c.layer_norm_epsilon))
    g.output("hidden_states", x)
    heads.decoder(g, root, x, w["word_embeddings"] if c.tie_word_embeddings else root["lm_head"], c.vocab_size)
    return x
