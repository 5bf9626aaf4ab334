"""`qkv info`."""

from __future__ import annotations

from typing import Any

from rich.table import Table

import qkv
from qkv.cli import terminal


def info(json: terminal.Json = False) -> None:
    """Say what this machine has, and what qkv chose of it."""
    found = qkv.info()
    if json:
        terminal.print_json(found)
    else:
        terminal.console().print(machine_table(found))


def machine_table(found: dict[str, Any]) -> Table:
    """What `qkv.info` returns, as rows of a table."""
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
    return terminal.size(value) if key.startswith("memory") else str(value)
