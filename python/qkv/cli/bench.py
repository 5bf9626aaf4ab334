"""`qkv bench`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import qkv
from qkv.cli import terminal
from qkv.errors import Error

if TYPE_CHECKING:
    from qkv.bench import Case, Machine, Report

_PICTURES = (".png", ".svg", ".pdf")


def bench(
    only: Annotated[
        str | None,
        typer.Option(help="Some of gemm, decode, attention, norms, end-to-end, with commas between.", metavar="GROUPS"),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Some of the weight types, with commas between; by default all.", metavar="TYPES")
    ] = None,
    threads: terminal.Threads = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer sizes and shorter turns: half a minute.")] = False,
    out: Annotated[Path | None, typer.Option(help="Draw a picture: .png, .svg or .pdf.", metavar="FILE")] = None,
    json: terminal.Json = False,
) -> None:
    """Measure this machine's ceilings, and kernels and whole models as shares of them. Takes some minutes."""
    # Here, and not above: the other commands need none of it.
    from qkv.bench import DTYPES, GROUPS, Machine, Report, plan

    groups, dtypes = _chosen("--only", only, GROUPS), _chosen("--dtype", dtype, DTYPES)
    if out:
        _check_picture(out)
    info = qkv.info() | ({"threads": threads} if threads else {})
    machine = Machine(info["threads"], quick=quick)
    report = Report(info, machine)
    try:
        _measure_ceilings(machine, report)
        _measure_cases(report, list(plan(machine, groups, dtypes)))
        report.complete = True
    finally:  # after Ctrl-C too: what was measured so far
        if report.ceilings:
            _print(report, json)
    if out:
        from qkv.bench.picture import draw

        draw(report, out)
        if not json:
            print(f"picture written to {out}")


def _measure_ceilings(machine: Machine, report: Report) -> None:
    from qkv.bench import CEILINGS

    for of in CEILINGS:
        report.ceilings[of] = machine.steady_ceiling(of)


def _measure_cases(report: Report, cases: list[Case]) -> None:
    from qkv.bench import measure

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=f"{case.dtype:<9} {case.name}, {case.shape}")
            report.results.append(measure(case, report.machine))
            progress.advance(task)


def _print(report: Report, json: bool) -> None:
    if json:
        terminal.print_json(report.as_json())
        return
    console = terminal.console()
    for line in report.setting():
        console.print(line, style="dim", soft_wrap=True)
    for table in (report.ceilings_table(), report.results_table()):
        console.print()
        console.print(table)
    if not report.complete:
        console.print("\ninterrupted: the rest was not measured")


def _chosen(option: str, value: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """The names in a list with commas; all by default."""
    if value is None:
        return known
    names = [name.strip() for name in value.split(",")]
    for name in names:
        if name not in known:
            raise Error(f"{option}: there is no {name!r}; choose from {', '.join(known)}")
    return tuple(name for name in known if name in names)


def _check_picture(out: Path) -> None:
    """Before minutes are spent on measuring.

    Raises:
        qkv.Error: the picture could not be drawn or written.
    """
    if out.suffix not in _PICTURES:
        raise Error(f"--out {out}: pictures are {', '.join(_PICTURES)}")
    if not out.absolute().parent.is_dir():
        raise Error(f"--out {out}: there is no folder {out.absolute().parent}")
    if find_spec("matplotlib") is None:
        raise Error("--out needs matplotlib: pip install matplotlib, or qkv with its extra: pip install '.[bench]'")
