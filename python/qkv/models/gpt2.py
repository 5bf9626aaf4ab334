"""GPT-2 (Radford et al. 2019): a pre-norm decoder with learned positions, one fused q/k/v projection, tied head.

Later models that keep its shape keep its `model_type`, too: open models after GPT-3 (Brown et al. 2020), and those that
scale scores by their layer (Mistral's GPT-2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qkv.checkpoint import Config as BaseConfig
from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Graph, Tensor
from qkv.models import heads
from qkv.models.common import OPENAI_NAMES, activation


@dataclass
class Config(BaseConfig):
    ALIASES: ClassVar = OPENAI_NAMES

    vocab_size: int
    n_embd: int
    n_layer: int
    n_head: int
    n_positions: int = 1024
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    add_cross_attention: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def check(self) -> None:
        self.require_divisible("n_embd", "n_head")
        if self.add_cross_attention:
            raise UnsupportedArchitecture(
                f"{self.where}: gpt2 with add_cross_attention: it reads from an encoder that it does not hold"
            )

    @property
    def context_length(self) -> int:
        return self.n_positions

    def attention_scale(self, layer: int) -> float:
        scale = (self.n_embd // self.n_head) ** -0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1) if self.scale_attn_by_inverse_layer_idx else scale


def build(g: Graph, c: Config, root: Weights) -> Tensor:
    w = root.under("transformer.", "")
    inner = c.n_inner or 4 * c.n_embd
    x = g.embed(w["wte"], vocab_size=c.vocab_size, hidden_size=c.n_embd, positions=(w["wpe"], c.n_positions))
    for index, layer in enumerate(w.layers("h", c.n_layer)):
        g.hidden(x)
        # weights are [in, out] here: OpenAI's Conv1D
        h = g.layer_norm(x, layer["ln_1"], eps=c.layer_norm_epsilon)
        q, k, v = g.linears(h, layer["attn.c_attn"], [c.n_embd] * 3, bias=True, transposed=True)
        a = g.attention(q, k, v, head_dim=c.n_embd // c.n_head, causal=True, scale=c.attention_scale(index))
        x = x + g.linear(a, layer["attn.c_proj"], c.n_embd, bias=True, transposed=True)

        h = g.layer_norm(x, layer["ln_2"], eps=c.layer_norm_epsilon)
        h = g.linear(h, layer["mlp.c_fc"], inner, bias=True, transposed=True)
        h = g.activate(h, activation(c.activation_function))
        x = x + g.linear(h, layer["mlp.c_proj"], c.n_embd, bias=True, transposed=True)

    x = g.hidden(g.layer_norm(x, w["ln_f"], eps=c.layer_norm_epsilon))
    g.output("hidden_states", x)
    heads.decoder(g, root, x, w["wte"] if c.tie_word_embeddings else root["lm_head"], c.vocab_size)
    return x
