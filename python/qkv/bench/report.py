"""What was measured, for people and for programs."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from qkv.bench.plan import GROUPS
from qkv.bench.timing import Case, Machine, Result

_JOINED = ("gemm", "attention")  # sizes share a line of the table
_UNNAMED = (*_JOINED, "decode")  # sizes are not named in it


@dataclass
class Report:
    """The figures of one run, filled as they come.

    Attributes:
        info: what `qkv.info` says, with the number of threads that were used.
        ceilings: operations per second of each type of arithmetic, and bytes per second read from "memory".
        complete: False while there is more to measure.
    """

    info: dict[str, Any]
    machine: Machine
    ceilings: dict[str, float] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    complete: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": self.info | {"last_level_cache": self.machine.cache_bytes},
            "memory_read": self.machine.stream_bytes,
            "quick": self.machine.quick,
            "complete": self.complete,
            "ceilings": self.ceilings,
            "results": [_as_json(result) for result in self.results],
        }

    def setting(self) -> list[str]:
        """Lines that say what was measured where."""
        info = self.info
        read, cache = (f"{n >> 20} MiB" for n in (self.machine.stream_bytes, self.machine.cache_bytes))
        lines = [
            f"{info['cpu']}, {info['isa']}, threads: {info['threads']}, qkv {info['version']}",
            f"memory: {read} read over and over; the largest cache is said to have {cache}",
        ]
        if 0 < self.machine.stream_bytes < 4 * self.machine.cache_bytes:
            lines.append("that is not four times as much: part of it may come from the cache")
        return lines

    def ceilings_table(self) -> Table:
        table = Table(box=None, header_style="cyan", pad_edge=False)
        table.add_column("ceiling")
        table.add_column("rate", justify="right")
        for name, rate in self.ceilings.items():
            table.add_row(name, rate_of(rate / 1e9, "GB/s" if name == "memory" else "GOP/s"))
        return table

    def results_table(self) -> Table:
        """Where sizes share a line, their median rate, and their lowest and highest share: of the arithmetic of the
        weights' type (int8 for int4), of memory read for single rows, or times as fast as NumPy."""
        table = Table(box=None, header_style="cyan", pad_edge=False)
        for column in ("case", "weights", "rate", "share", "goal"):
            table.add_column(column, justify="right" if column in ("rate", "share") else "left", no_wrap=True)
        group = ""
        for line in lines_of(self.results):
            first = line[0].case
            if group not in ("", first.group):
                table.add_row()
            group = first.group
            rate = rate_of(statistics.median(result.rate for result in line), first.unit)
            shares = share_of([result.share for result in line], first.of)
            table.add_row(label(first), first.dtype, rate, shares, _goal(line))
        return table


def lines_of(results: Iterable[Result]) -> list[list[Result]]:
    """Results that share a line of the table, in the order in which their first ones came."""
    lines: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        case = result.case
        shape = "" if case.group in _JOINED else case.shape
        lines.setdefault((case.group, case.name, case.dtype, shape), []).append(result)
    return sorted(lines.values(), key=lambda line: GROUPS.index(line[0].case.group))


def label(case: Case) -> str:
    """What a line of the table or of the picture is about."""
    return case.name if case.group in _UNNAMED else f"{case.name}, {case.shape}"


def number(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def rate_of(value: float, unit: str) -> str:
    return f"{number(value)} {unit}"


def share_of(shares: list[float], of: str) -> str:
    """Percent of a ceiling, or times as fast as NumPy; lowest and highest."""
    if of == "NumPy":
        return f"{_range(shares, lambda x: f'{x:.1f}')} ×"
    return f"{_range(shares, lambda x: f'{100 * x:.0f}')} %"


def _range(values: list[float], text: Callable[[float], str]) -> str:
    low, high = text(min(values)), text(max(values))
    return low if low == high else f"{low}–{high}"


def _goal(line: list[Result]) -> Text:
    case = line[0].case
    if case.goal is None:
        return Text("")
    goal = share_of([case.goal], case.of)
    met = sum(bool(result.met) for result in line)
    if met == len(line):
        return Text(f"{goal} met", style="green")
    return Text(f"{goal} missed" if met == 0 else f"{goal} in {met} of {len(line)}", style="red")


def _as_json(result: Result) -> dict[str, Any]:
    case = result.case
    return {
        **{name: getattr(case, name) for name in ("group", "name", "shape", "dtype", "unit", "of", "goal")},
        **{name: getattr(result, name) for name in ("rate", "ceiling", "share", "met", "rounds")},
    }
