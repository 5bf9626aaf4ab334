"""Beam sampling: continuations that are drawn instead of the best ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qkv import _ext

if TYPE_CHECKING:
    from qkv.generation.sampling import SamplingParams
    from qkv.generation.search.beam_group import Continuation

_BLOCK = 64  # probabilities whose sum is kept, so that a draw reads few of them


def draw_continuations(
    scores: NDArray[np.float32], running: Sequence[float], params: SamplingParams, keep: int, draws: Sequence[float]
) -> list[Continuation]:
    """Different continuations, each drawn among those left, with probabilities that its sum of scores gives.

    As in Hugging Face's beam sampling: the scores of a beam are divided by the temperature and filtered, but never
    normalised again.

    Args:
        scores: log probabilities as the rules left them, [beams, vocab].
        running: the score of each beam.
        keep: so many of a beam's tokens pass the filters in any case.
        draws: uniform in [0, 1), one for each continuation that is wanted.

    Returns:
        fewer than wanted, where no more tokens pass.

    Raises:
        qkv.Error: a row holds NaN or infinity, or minus infinity only.
    """
    passed = [_passing(row, params, keep) for row in scores]
    tokens = np.concatenate(passed)
    beams = np.repeat(np.arange(len(scores)), [len(p) for p in passed])
    sums = scores[beams, tokens] / np.float32(params.temperature) + np.asarray(running, np.float32)[beams]
    chosen = _draw_without_replacement(np.exp(sums.astype(np.float64) - sums.max()), draws)
    return [(float(sums[i]), int(beams[i]), int(tokens[i])) for i in chosen]


def _passing(row: NDArray[np.float32], params: SamplingParams, keep: int) -> NDArray[np.int64]:
    """The tokens that pass the filters, at least the `keep` likeliest."""
    tokens, _ = _ext.candidates(params.filters(), row)
    if len(tokens) >= keep:
        return tokens
    (likeliest,) = _ext.best_continuations(row[None], [0.0], [(1, keep)])
    return np.union1d(tokens, [token for _, _, token in likeliest])


def _draw_without_replacement(weights: NDArray[np.float64], draws: Sequence[float]) -> list[int]:
    """Indices of positive weights, each drawn in proportion to its weight among those left."""
    blocks = np.pad(weights, (0, -len(weights) % _BLOCK)).reshape(-1, _BLOCK)
    sums = blocks.sum(axis=1)
    chosen: list[int] = []
    for draw in draws[: int(np.count_nonzero(weights))]:
        mass = draw * sums.sum()
        block = _reached(sums, mass)
        lane = _reached(blocks[block], mass - sums[:block].sum())
        chosen.append(block * _BLOCK + lane)
        blocks[block, lane] = 0
        sums[block] = blocks[block].sum()  # not a difference: what is left may be tiny
    return chosen


def _reached(weights: NDArray[np.float64], mass: float) -> int:
    """Where the sum of the weights exceeds `mass`; rounding leads neither beyond the last one nor to one of 0."""
    at = int(np.searchsorted(np.cumsum(weights), max(mass, 0.0), side="right"))
    return min(at, int(np.flatnonzero(weights)[-1]))
