"""Rotary position embedding (Su et al. 2021, RoFormer)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Beyond:
    """What turns sequences that are planned to be longer than `length` tokens.

    With `ntk_factor` f, frequency i of a sequence of n tokens is divided by (f n / length - f + 1)^(2i / (dim - 2)).
    """

    length: int
    inverse_frequencies: tuple[float, ...]
    scale: float = 1.0
    ntk_factor: float | None = None


@dataclass(frozen=True)
class Rope:
    """Turns pair i of a head by position * inverse_frequencies[i]; values behind the pairs are left alone.

    Attributes:
        inverse_frequencies: [dim / 2] of radians for each position, where dim values of a head are turned.
        interleaved: pairs are (2i, 2i + 1); otherwise (i, i + dim / 2).
        scale: of cosines and sines, and so of turned queries and of turned keys.
        beyond: other frequencies for long sequences.
    """

    inverse_frequencies: tuple[float, ...]
    interleaved: bool = False
    scale: float = 1.0
    beyond: Beyond | None = None

    @staticmethod
    def plain(theta: float, dim: int, *, interleaved: bool = False) -> Rope:
        """theta^(-2i/dim), in float32 as the reference implementations compute it."""
        exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
        return Rope(tuple((np.float32(1.0) / np.power(np.float32(theta), exponents)).tolist()), interleaved)

    @property
    def dim(self) -> int:
        return 2 * len(self.inverse_frequencies)
