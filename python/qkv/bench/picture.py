"""The figures of a run as a picture. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qkv.bench.report import Report, label, lines_of, number
from qkv.bench.timing import Result

_COLOURS = {"float32": "#2563eb", "bfloat16": "#d97706", "int8": "#059669", "int4": "#9333ea"}
_TITLES = {
    "gemm": "GEMM, share of the arithmetic ceiling",
    "decode": "One row, share of memory read",
    "attention": "Attention, share of its ceiling",
    "end-to-end": "Whole models, share of their ceiling, and tokens per second",
    "norms": "Single rows, times as fast as NumPy",
}
_GREY, _PALE = "#6b7280", "#e5e7eb"


def draw(report: Report, path: Path) -> None:
    """Writes the picture; its format follows from the file's ending."""
    matplotlib.rcParams["font.size"] = 9
    groups = {name: [r for r in report.results if r.case.group == name] for name in _TITLES}
    columns = [
        [name for name in side if groups[name]] for side in (("gemm", "decode"), ("attention", "end-to-end", "norms"))
    ]
    columns = [side for side in columns if side]
    heights = [[len({label(r.case) for r in groups[name]}) + 2.2 for name in side] for side in columns]
    inches = 0.29 * max(sum(side) for side in heights) + 1.5
    figure = Figure(figsize=(6.4 * len(columns), inches), layout="constrained")
    figure.suptitle("What this machine gives, and what qkv makes of it", fontsize=13, x=0.01, ha="left")
    figure.supxlabel("\n".join([_ceilings(report), *report.setting()[:2]]), fontsize=8, color=_GREY, x=0.01, ha="left")
    panels = figure.subfigures(1, len(columns), squeeze=False)[0]
    for panel, names, rows in zip(panels, columns, heights, strict=True):
        all_axes = panel.subplots(len(names), 1, squeeze=False, height_ratios=rows)[:, 0]
        for axes, name in zip(all_axes, names, strict=True):
            _panel(axes, name, groups[name])
    types = _types(report.results)
    marks = [Line2D([], [], marker="o", linestyle="", color=_COLOURS[dtype], label=dtype) for dtype in types]
    goal = Line2D([], [], marker="|", linestyle="", markersize=9, color=_GREY, label="goal")
    figure.legend(handles=[*marks, goal], loc="upper right", ncols=5, frameon=False, handletextpad=0.1)
    figure.savefig(path, dpi=110)


def _panel(axes: Any, group: str, results: list[Result]) -> None:
    """A line for each case, a dot for each size, a tick for the goal; weight types a little apart."""
    names = list(dict.fromkeys(label(r.case) for r in results))
    numpy, scale = group == "norms", 1.0 if group == "norms" else 100.0
    for line in lines_of(results):
        case, name = line[0].case, label(line[0].case)
        types = _types(r for r in results if label(r.case) == name)
        y = names.index(name) + (types.index(case.dtype) - (len(types) - 1) / 2) * 0.75 / len(types)
        colour = _COLOURS[case.dtype]
        shares = [scale * r.share for r in line]
        axes.plot([min(shares), max(shares)], [y, y], color=colour, linewidth=1, alpha=0.5)
        axes.plot(shares, [y] * len(shares), "o", color=colour, markersize=4, clip_on=False)
        if case.goal is not None:
            axes.plot([scale * case.goal], [y], "|", color=colour, markersize=7 if len(types) > 1 else 10)
    most = max(scale * r.share for r in results)
    most = max(most * 1.08, 12) if numpy else max(100, most * 1.05)
    if group == "end-to-end":  # tokens per second beside the dots, a column for each type
        axes.set_xticks(range(0, int(most) + 1, 20 if most < 200 else 100))
        columns = _types(results)
        for result in results:
            x = most * (1.16 + 0.17 * columns.index(result.case.dtype))
            place = (x, names.index(label(result.case)))
            axes.annotate(number(result.rate), place, ha="right", va="center", color=_COLOURS[result.case.dtype])
        most *= 1.0 + 0.17 * len(columns)
    axes.set_xlim(0, most)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.set_major_formatter("{x:.0f} ×" if numpy else "{x:.0f} %")
    axes.grid(axis="x", color=_PALE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(_TITLES[group], fontsize=10, loc="left", pad=6)


def _types(results: Iterable[Result]) -> list[str]:
    """Weight types, in the order of their colours."""
    there = {r.case.dtype for r in results}
    return [dtype for dtype in _COLOURS if dtype in there]


def _ceilings(report: Report) -> str:
    rates = (
        f"{name} {number(rate / 1e9)} {'GB/s' if name == 'memory' else 'GOP/s'}"
        for name, rate in report.ceilings.items()
    )
    return "ceilings: " + ", ".join(rates)
