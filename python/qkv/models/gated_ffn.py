"""The feed-forward layer of LLaMA and of those after it."""

from __future__ import annotations

from qkv.checkpoint import Weights
from qkv.graph import Graph, Tensor


def gated_ffn(g: Graph, x: Tensor, w: Weights, inner: int, function: str, *, bias: bool = False) -> Tensor:
    """down(f(gate(x)) * up(x)): a gated linear unit (Shazeer 2020). `inner` is the width of gate and up."""
    gate = g.activate(g.linear(x, w["gate_proj"], inner, bias=bias), function)
    up = g.linear(x, w["up_proj"], inner, bias=bias)
    return g.linear(gate * up, w["down_proj"], x.width, bias=bias)
