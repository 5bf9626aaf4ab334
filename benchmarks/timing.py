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


# Threads of OpenBLAS and of OpenMP runtimes stay awake after their work and take a core from whoever comes next; it
# took Linux up to a third of a second to spread the next library's threads again. So a turn begins with work that is
# not timed.
SETTLE_SECONDS = 0.35
TURN_SECONDS = 0.15


def paired(a: Callable[[], object], b: Callable[[], object], seconds: float = 2.0, least_rounds: int = 5) -> Pair:
    """Times `a` and `b` in turns for about `seconds` in all, so that both meet the same disturbances.

    A turn lasts half a second, or one call that is not timed and one that is. `ratio` is the median of the rounds'
    own ratios a / b, as a slow phase of the machine hits both sides of a round.
    """
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < least_rounds:
        times.append((turn(a), turn(b)))
    return Pair(
        a=statistics.median(first for first, _ in times),
        b=statistics.median(second for _, second in times),
        ratio=statistics.median(first / second for first, second in times),
        rounds=len(times),
    )


def turn(f: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call, once others have had their time to settle."""
    _repeat(f, SETTLE_SECONDS, clock)
    return _repeat(f, TURN_SECONDS, clock)


def _repeat(f: Callable[[], object], seconds: float, clock: Callable[[], float]) -> float:
    """Calls f for at least that long; seconds of one call."""
    start = clock()
    calls = 0
    while True:
        f()
        calls += 1
        passed = clock() - start
        if passed >= seconds:
            return passed / calls
