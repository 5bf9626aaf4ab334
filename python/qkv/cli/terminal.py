"""What the commands share for writing to a terminal, and to machines."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from qkv.errors import Error

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of a run; by default one for each physical core.")]
Dtype = Annotated[str, typer.Option(help="Type of the weights in memory: auto, float32, bfloat16, int8 or int4.")]


def console() -> Console:
    """Rich output on stdout; plain where that is no terminal."""
    return Console(highlight=False)


def print_json(value: Any) -> None:
    """One JSON object on a line of stdout.

    Raises:
        qkv.Error: it holds NaN or infinity.
    """
    try:
        print(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except ValueError as error:
        raise Error("the result holds NaN or infinity, which JSON cannot express") from error


def size(nbytes: float) -> str:
    """A number of bytes for people: 1 GB is 10^9 bytes."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.1f} {unit}"
    return f"{nbytes:.0f} bytes"
