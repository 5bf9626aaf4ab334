"""`qkv info`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

import qkv
from qkv.cli import terminal
from qkv.machine import default_threads
from qkv.packed import PackedFile


def info(
    file: Annotated[Path | None, typer.Argument(help="A packed model, to say what it holds instead.")] = None,
    json: terminal.Json = False,
) -> None:
    """Say what this machine has, and what qkv chose of it; or what a packed model holds."""
    if file is None:
        found = qkv.info()
    else:
        with PackedFile.open_file(file, default_threads()) as packed:
            found = packed.describe()
    if json:
        terminal.print_json(found)
    else:
        terminal.console().print(table_of(found))


def table_of(found: dict[str, Any]) -> Table:
    """What `qkv.info` or a packed file says, as rows of a table."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan")
    table.add_column()
    for key, value in found.items():
        table.add_row(key.replace("_", " "), _shown(key, value))
    return table


def _shown(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return terminal.size(value) if key.startswith(("memory", "bytes")) else str(value)
