"""Positions as sines and cosines (Vaswani et al. 2017, section 3.5)."""

from __future__ import annotations

import numpy as np

from qkv.graph import Constant


def sinusoids(rows: int, width: int, *, interleaved: bool) -> Constant:
    """[rows, width]: sin and cos of position * 10000^(-2i / width), for each i side by side as in the paper if
    `interleaved`; otherwise all sines come first, as in tensor2tensor, and so in Marian."""
    frequencies = np.power(10000.0, -2.0 * np.arange((width + 1) // 2) / width)
    angles = np.arange(rows)[:, None] * frequencies
    sines, cosines = np.sin(angles), np.cos(angles)[:, : width // 2]
    table = np.empty((rows, width), np.float32)
    if interleaved:
        table[:, 0::2], table[:, 1::2] = sines, cosines
    else:
        table[:] = np.concatenate([sines, cosines], axis=1)
    return Constant(f"sinusoids {rows} x {width}{' interleaved' if interleaved else ''}", table)
