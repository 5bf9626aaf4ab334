"""Positions as sines and cosines (Vaswani et al. 2017, section 3.5)."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from qkv.checkpoint import Config
from qkv.graph import Constant

# Values of a table, which is computed and held in memory: 64 MB, 16,384 positions of 1024 values.
_MOST_VALUES = 2**24


def check_table(config: Config, rows: str, width: str) -> None:
    """Raise CheckpointError where a table for as many rows and columns as these fields say would fill the memory."""
    positions, values = getattr(config, rows), getattr(config, width)
    config.require(
        positions * values <= _MOST_VALUES,
        f"{rows} {positions} times {width} {values} is more than the {_MOST_VALUES} that computed positions may have",
    )


def sinusoids(rows: int, width: int, *, interleaved: bool) -> Constant:
    """[rows, width]: sin and cos of position * 10000^(-2i / width), for each i side by side as in the paper if
    `interleaved`; otherwise all sines come first, as in tensor2tensor, and so in Marian."""
    name = f"sinusoids {rows} x {width}{' interleaved' if interleaved else ''}"
    return Constant(name, (rows, width), partial(_table, rows, width, interleaved))


def _table(rows: int, width: int, interleaved: bool) -> NDArray[np.float32]:
    frequencies = np.power(10000.0, -2.0 * np.arange((width + 1) // 2) / width)
    angles = np.arange(rows)[:, None] * frequencies
    sines, cosines = np.sin(angles), np.cos(angles)[:, : width // 2]
    table = np.empty((rows, width), np.float32)
    if interleaved:
        table[:, 0::2], table[:, 1::2] = sines, cosines
    else:
        table[:] = np.concatenate([sines, cosines], axis=1)
    return table
