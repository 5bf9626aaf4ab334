"""`qkv pack`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

import qkv
from qkv.cli import checkpoints, terminal
from qkv.machine import default_threads
from qkv.packed import PackedFile


def pack(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, a hub id, or shakespeare.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write, e.g. gpt2.qkv.", metavar="FILE")],
    dtype: terminal.Dtype = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
    threads: terminal.Threads = None,
    json: terminal.Json = False,
) -> None:
    """Write a model to one file that opens at once: any command takes it where it takes a MODEL."""
    started = time.perf_counter()
    console = Console(stderr=True, quiet=json)
    columns = TextColumn("Packing"), BarColumn(), DownloadColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        qkv.pack(
            checkpoints.path_of(model),
            out,
            dtype=dtype,
            num_threads=threads,
            force=force,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    seconds = time.perf_counter() - started
    with PackedFile.open_file(out, threads or default_threads()) as packed:
        report = packed.describe()
    if json:
        terminal.print_json(report | {"seconds": seconds})
    else:
        print(
            f"{report['model_type']} as {report['dtype']} in {out}: {terminal.size(report['bytes'])}, {seconds:.1f} s"
        )
