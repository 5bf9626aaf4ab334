"""Attention weights, for callers who ask a run for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qkv.errors import Error

Layers = bool | Sequence[int]  # all, none, or some of them by number
Weights = NDArray[np.float32]  # [heads, tokens, keys]


@dataclass(frozen=True)
class Attentions:
    """Arrays for a run to write to.

    Attributes:
        by_step: for each attention step of a program an array for each sequence; nothing for steps that are not wanted.
        layers: the wanted ones, in the caller's order.
    """

    by_step: list[list[Weights]]
    layers: list[int]

    @staticmethod
    def wanted(layers: Layers, heads: Sequence[int], tokens: Sequence[int], keys: Sequence[int]) -> Attentions:
        """heads: of each attention step; tokens, keys: of each sequence.

        Raises:
            qkv.Error: `layers` names one that the model does not have.
        """
        chosen = _numbers(layers, len(heads))
        by_step = [
            [np.empty((h, n, k), np.float32) for n, k in zip(tokens, keys, strict=True)] if i in chosen else []
            for i, h in enumerate(heads)
        ]
        return Attentions(by_step, chosen)

    def by_sequence(self) -> list[list[Weights]]:
        """For each sequence an array for each wanted layer."""
        return [list(arrays) for arrays in zip(*(self.by_step[i] for i in self.layers), strict=True)]


def _numbers(layers: Layers, count: int) -> list[int]:
    if isinstance(layers, bool):
        chosen = list(range(count)) if layers else []
    else:
        chosen = list(layers)
    ...
    return chosen
