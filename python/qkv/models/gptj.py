"""GPT-J (Wang, Komatsuzaki 2021): attention and feed-forward layer read one norm, side by side; rotary positions turn
neighbouring pairs in the first `rotary_dim` values of each head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qkv.checkpoint import Config as BaseConfig
from qkv.checkpoint import Weights
from qkv.graph import Graph, Rope, Tensor
from qkv.models import heads
from qkv.models.common import OPENAI_NAMES, activation
from qkv.models.rope import MOST_TURNED


@dataclass
class Config(BaseConfig):
    ALIASES: ClassVar = OPENAI_NAMES

    vocab_size: int
    n_embd: int
    n_layer: int
    n_head: int
    rotary_dim: int  # null is refused: it once asked for angles over the whole width, and no checkpoint has them
    n_positions: int = 2048
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def check(self) -> None:
        self.require_divisible("n_embd", "n_head")
        fits = self.rotary_dim % 2 == 0 and self.rotary_dim <= self.head_dim
        self.require(fits, f"rotary_dim {self.rotary_dim} is not an even number of a head's {self.head_dim} values")
        self.require(self.rotary_dim <= MOST_TURNED, f"rotary_dim is {self.rotary_dim}; expected at most {MOST_TURNED}")

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def context_length(self) -> int:
        return self.n_positions


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("transformer.", "")
    rope = Rope.plain(10000.0, c.rotary_dim, interleaved=True)
    x = g.embed(w["wte"], vocab_size=c.vocab_size, hidden_size=c.n_embd)
    for layer in w.layers("h", c.n_layer):
        g.hidden(x)
        h = g.layer_norm(x, layer["ln_1"], eps=c.layer_norm_epsilon)
        q, k, v = (g.linear(h, layer[f"attn.{p}_proj"], c.n_embd, bias=False) for p in "qkv")
        a = g.attention(q, k, v, head_dim=c.head_dim, causal=True, rope=rope)
        a = g.linear(a, layer["attn.out_proj"], c.n_embd, bias=False)

        h = g.linear(h, layer["mlp.fc_in"], c.n_inner or 4 * c.n_embd, bias=True)
        h = g.activate(h, activation(c.activation_function))
        x = x + a + g.linear(h, layer["mlp.fc_out"], c.n_embd, bias=True)

    x = g.hidden(g.layer_norm(x, w["ln_f"], eps=c.layer_norm_epsilon))
    g.output("hidden_states", x)
    lm = w["wte"] if c.tie_word_embeddings else root["lm_head"]
    heads.decoder(g, root, x, lm, c.vocab_size, bias=root["lm_head"])
    return x
