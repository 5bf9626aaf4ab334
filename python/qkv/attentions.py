"""Attention weights, for callers who ask a run for them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

import numpy as np
from numpy.typing import NDArray

from qkv.errors import Error

Layers = bool | Sequence[int]  # all of them, or some by number


class AttentionWeights:
    """Arrays [heads, tokens, tokens] for a run to write to.

    Attributes:
        by_step: for each attention step of a program one for each sequence; nothing for a layer that is not wanted.
        by_sequence: for each sequence one for each wanted layer, in the order in which they were asked for.
    """

    def __init__(self, layers: Layers, heads: Sequence[int], lengths: Sequence[int]) -> None:
        """heads: of each attention step; lengths: of each sequence.

        Raises:
            qkv.Error: `layers` is not a choice among them.
        """
        chosen = _numbers(layers, len(heads))
        self.by_step = [
            [np.empty((count, n, n), np.float32) for n in lengths] if layer in chosen else []
            for layer, count in enumerate(heads)
        ]
        self.by_sequence: list[list[NDArray[np.float32]]] = [
            [self.by_step[layer][s] for layer in chosen] for s in range(len(lengths))
        ]


def _numbers(layers: Layers, count: int) -> list[int]:
    if count == 0:
        raise Error("return_attentions: this model has no attention")
    if isinstance(layers, bool):
        return list(range(count)) if layers else []
    try:
        chosen = [index(layer) for layer in layers]
    except TypeError:
        raise Error(f"return_attentions: expected True or a list of layers, got {layers!r:.80}") from None
    for layer in chosen:
        if not 0 <= layer < count:
            raise Error(f"return_attentions: there is no layer {layer}; the model has {count} (0 ... {count - 1})")
    return chosen
