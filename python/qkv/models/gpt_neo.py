"""GPT-Neo (Black et al. 2021): GPT-2 whose layers look back everywhere ("global") and at the last `window_size` tokens
("local") in turn, with scores that are not divided by sqrt(head_dim)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from qkv.checkpoint import Config as BaseConfig
from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Graph, Tensor
from qkv.models import heads
from qkv.models.common import activation


@dataclass
class Config(BaseConfig):
    ALIASES: ClassVar = {"num_attention_heads": "num_heads", "num_hidden_layers": "num_layers"}

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    max_position_embeddings: int = 2048
    intermediate_size: int | None = None
    attention_types: list[Any] | None = None  # of [types, times], e.g. [["global", "local"], 12]
    attention_layers: list[str] | None = None  # the same, spelt out: one type for each layer
    window_size: int = 256
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def check(self) -> None:
        self.require_divisible("hidden_size", "num_heads")
        if self.attention_types is not None or self.attention_layers is None:
            types = self._expanded(self.attention_types or [[["global", "local"], 12]])
            agree = self.attention_layers in (None, types)
            self.require(agree, "attention_layers is not what attention_types says")
            self.attention_layers = types
        found = len(self.attention_layers)
        self.require(found == self.num_layers, f"attention types for {found} layers, but num_layers {self.num_layers}")
        for kind in self.attention_layers:
            if kind not in ("global", "local"):
                raise UnsupportedArchitecture(
                    f"{self.where}: gpt_neo with attention of type {kind!r:.60}: only 'global' and 'local'"
                )

    def _expanded(self, attention_types: list[Any]) -> list[str]:
        """Type of each layer, and of at most one too many: a count may be anything."""
        for item in attention_types:
            match item:
                case [[_, *_], int(times)] if times > 0:
                    continue
            self.require(False, f"attention_types: {item!r:.80} is not [types, times]")
        layers = (kind for types, times in attention_types for _ in range(times) for kind in types)
        return list(islice(layers, self.num_layers + 1))

    @property
    def context_length(self) -> int:
        return self.max_position_embeddings

    def window(self, layer: int) -> int | None:
        assert self.attention_layers
        return self.window_size if self.attention_layers[layer] == "local" else None


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("transformer.", "")
    inner = c.intermediate_size or 4 * c.hidden_size
    positions = (w["wpe"], c.max_position_embeddings)
    x = g.embed(w["wte"], vocab_size=c.vocab_size, hidden_size=c.hidden_size, positions=positions)
    for index, layer in enumerate(w.layers("h", c.num_layers)):
        g.hidden(x)
        h = g.layer_norm(x, layer["ln_1"], eps=c.layer_norm_epsilon)
        attention = layer["attn.attention"]
        q, k, v = (g.linear(h, attention[f"{p}_proj"], c.hidden_size, bias=False) for p in "qkv")
        head_dim = c.hidden_size // c.num_heads
        a = g.attention(q, k, v, head_dim=head_dim, causal=True, scale=1.0, window=c.window(index))
        x = x + g.linear(a, attention["out_proj"], c.hidden_size, bias=True)

        h = g.layer_norm(x, layer["ln_2"], eps=c.layer_norm_epsilon)
        h = g.activate(g.linear(h, layer["mlp.c_fc"], inner, bias=True), activation(c.activation_function))
        x = x + g.linear(h, layer["mlp.c_proj"], c.hidden_size, bias=True)

    x = g.hidden(g.layer_norm(x, w["ln_f"], eps=c.layer_norm_epsilon))
    g.output("hidden_states", x)
    heads.decoder(g, root, x, w["wte"] if c.tie_word_embeddings else root["lm_head"], c.vocab_size)
    return x
