"""Timing work beside its ceiling, in turns, on a machine that also does other things.

A case's share is the median over rounds of (its rate) / (the ceiling's rate of the same round), each taken over some
milliseconds: what slows the machine down for a while hits both.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qkv import _ext
from qkv.machine import available_memory

_MIB = 1 << 20


Timer = Callable[[float], float]
"""Seconds of one call, from calls for at least so many seconds."""


@dataclass(frozen=True)
class Job:
    """What a case times.

    Attributes:
        seconds: times it.
        work: of one call, in the unit that is shown, such as tokens.
        cost: of one call, in what the ceiling counts: operations or bytes; 1 beside NumPy.
        numpy: times NumPy on the same work, where that is the ceiling.
    """

    seconds: Timer
    work: float
    cost: float
    numpy: Timer | None = None


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        group: gemm, decode, attention, norms or end-to-end.
        name: what is done, e.g. "inner loop, 24 rows".
        shape: which of several sizes.
        dtype: of the weights.
        unit: of the rate that is shown: work per second.
        of: the ceiling: "float32", "bfloat16" or "int8" arithmetic, "memory", or "NumPy".
        goal: the share that is aimed at, or None.
        make: allocates what is needed.
    """

    group: str
    name: str
    shape: str
    dtype: str
    unit: str
    of: str
    goal: float | None
    make: Callable[[], Job]


@dataclass(frozen=True)
class Result:
    """A measured case. `rate` is work per second, in the case's unit; `ceiling` in operations or bytes per second."""

    case: Case
    rate: float
    ceiling: float
    share: float
    rounds: int

    @property
    def met(self) -> bool | None:
        return None if self.case.goal is None else self.share >= self.case.goal


class Machine:
    """This machine's ceilings with some threads."""

    def __init__(self, threads: int, *, quick: bool) -> None:
        self.threads = threads
        self.quick = quick
        self.cache_bytes = last_level_cache()
        self.stream_bytes = _stream_bytes(self.cache_bytes, _MIB << (9 if quick else 10))

    @functools.cached_property
    def _stream(self) -> _ext.Stream:
        return _ext.Stream(self.stream_bytes)

    def ceiling(self, of: str, seconds: float) -> float:
        """Operations per second of a weight type, or bytes per second read from "memory"."""
        if of == "memory":
            return self._stream.read_rate(self.threads, seconds)
        return _ext.peak_rate(of, self.threads, seconds)

    def steady_ceiling(self, of: str) -> float:
        """The median of some short turns."""
        return statistics.median(self.ceiling(of, 0.01) for _ in range(7))


def last_level_cache() -> int:
    """Bytes of the largest cache that the system reports, which a virtual machine may share with others; or 0."""
    sizes = [0]
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()  # "32768K"
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) * 1024)
    return max(sizes)


def _stream_bytes(cache: int, most: int) -> int:
    """What to read so that it comes from memory: four times the cache, within reason."""
    return max(64 * _MIB, min(4 * cache or most, most, available_memory() // 8))


def timer(call: Callable[[], object], *, warm: bool = True) -> Timer:
    """Times a Python function. With `warm`, a first call, which fills caches, is made here."""
    if warm:
        call()

    def seconds_of(seconds: float) -> float:
        calls, start = 0, time.perf_counter()
        while True:
            call()
            calls += 1
            passed = time.perf_counter() - start
            if passed >= seconds:
                return passed / calls

    return seconds_of


def measure(case: Case, machine: Machine) -> Result:
    """Rounds of ceiling and case until the time for one case is used up."""
    budget, turn = (0.12, 0.002) if machine.quick else (0.5, 0.004)
    job = case.make()
    ceilings: list[float] = []
    seconds: list[float] = []
    end = time.perf_counter() + budget
    while len(seconds) < 3 or (time.perf_counter() < end and len(seconds) < 25):
        ceilings.append(1 / job.numpy(turn) if job.numpy else machine.ceiling(case.of, turn))
        seconds.append(job.seconds(turn))
    return Result(
        case=case,
        rate=job.work / statistics.median(seconds),
        ceiling=statistics.median(ceilings),
        share=statistics.median(job.cost / s / c for s, c in zip(seconds, ceilings, strict=True)),
        rounds=len(seconds),
    )
