"""Timing two ways of doing the same work, fairly, on a machine that also does other things."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """Seconds of one call: medians of the two sides, and how often the second fits into the first."""

    a: float
    b: float
    ratio: float
    rounds: int


def paired(a: Callable[[], object], b: Callable[[], object], seconds: float = 2.0, least_rounds: int = 7) -> Pair:
    """Times `a` and `b` in turns for about `seconds` in all, so that both meet the same disturbances.

    A round times one batch of each side; batches are long enough (2 ms) for the clock. `ratio` is the median
    of the rounds' own ratios a / b, as a slow phase of the machine hits both sides of a round.
    """
    calls_a, calls_b = _calls(a), _calls(b)
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < least_rounds:
        times.append((_time(a, calls_a), _time(b, calls_b)))
    return Pair(
        a=statistics.median(first for first, _ in times),
        b=statistics.median(second for _, second in times),
        ratio=statistics.median(first / second for first, second in times),
        rounds=len(times),
    )


def _calls(f: Callable[[], object], batch_seconds: float = 2e-3) -> int:
    """Calls that make a batch; also warms up."""
    f()
    return max(1, round(batch_seconds / _time(f, 3)))


def _time(f: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        f()
    return (time.perf_counter() - start) / calls
