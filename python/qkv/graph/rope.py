"""Rotary position embedding (Su et al. 2021, RoFormer)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rope:
    """Turns pair i of a head by position * theta^(-2i/dim); `dim` of a head's values are turned."""

    theta: float
    dim: int

    def inverse_frequencies(self) -> tuple[float, ...]:
        """theta^(-2i/dim), [dim / 2], in float32 as the reference implementations compute it."""
        exponents = np.arange(0, self.dim, 2, dtype=np.float32) / np.float32(self.dim)
        return tuple((np.float32(1.0) / np.power(np.float32(self.theta), exponents)).tolist())
