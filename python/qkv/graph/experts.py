"""The weights of a mixture of experts, as checkpoints hold them: a tensor for each expert and layer, or all experts of
a layer in one tensor."""

from __future__ import annotations

from qkv.checkpoint import Weights
from qkv.graph.tensor import Linear, Matrix

Expert = tuple[Linear, Linear]  # gate and up as one gated layer, and down


def experts(
    w: Weights, count: int, hidden: int, inner: int, names: tuple[str, str, str], activation: str
) -> list[Expert]:
    """The experts under a scope; `names` of an expert's gate [inner, hidden], up, and down [hidden, inner]."""

    def expert(i: int) -> Expert:
        gate, up, down = (w[f"{i}.{name}"] for name in names)
        gate_up = tuple(Matrix(layer.param("weight", (inner, hidden)), None) for layer in (gate, up))
        return Linear(gate_up, activation, gated=True), Linear((Matrix(down.param("weight", (hidden, inner)), None),))

    return [expert(i) for i in range(count)]
