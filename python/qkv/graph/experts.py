"""The weights of a mixture of experts, as checkpoints hold them."""

from __future__ import annotations

from qkv.checkpoint import Weights
from qkv.graph.tensor import Linear, Matrix, Part


def experts(
    w: Weights, count: int, hidden: int, inner: int, names: tuple[str, str, str], activation: str
) -> list[tuple[Linear, Linear]]:
    """The layers of the experts under a scope: gate and up as one, and down.

    Each expert has tensors of its own, with `names` for gate [inner, hidden], up, and down [hidden, inner]; or all are
    in gate_up_proj [count, 2 inner, hidden] and down_proj [count, hidden, inner], as transformers 5 holds them."""
    if "gate_up_proj" in w:
        gates_ups = w.param("gate_up_proj", (count, 2 * inner, hidden))
        downs = w.param("down_proj", (count, hidden, inner))
        halves = Part(1, 0, inner), Part(1, inner, inner)
        layers = [
            (tuple(Matrix(gates_ups.at(i), None, part=half) for half in halves), Matrix(downs.at(i), None))
            for i in range(count)
        ]
    else:
        gate, up, down = names
        layers = [
            (
                tuple(Matrix(w[f"{i}.{name}"].param("weight", (inner, hidden)), None) for name in (gate, up)),
                Matrix(w[f"{i}.{down}"].param("weight", (hidden, inner)), None),
            )
            for i in range(count)
        ]
    return [(Linear(pair, activation, gated=True), Linear((last,))) for pair, last in layers]
