"""`qkv encode`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table
from rich.text import Text

from qkv.cli import checkpoints, terminal
from qkv.errors import Error

_FIRST = 6  # numbers of a vector that are shown to people


def encode(
    model: Annotated[str, typer.Argument(help="A checkpoint folder or a hub id.")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts to embed.")] = None,
    file: Annotated[
        str | None, typer.Option(help="A file with one text a line, UTF-8; - reads stdin.", metavar="FILE")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the vectors as a NumPy array, float32 [texts, size].")] = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Scale each vector to length 1.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts of one run.")] = 32,
    dtype: terminal.Dtype = "auto",
    threads: terminal.Threads = None,
    json: terminal.Json = False,
) -> None:
    """Turn texts into vectors. Without --out or --json, shows the beginning of each."""
    batch = [*(texts or ()), *(_lines(file) if file else ())]
    if not batch:
        raise Error("no texts to embed; give them as arguments or with --file")
    if out and not out.absolute().parent.is_dir():
        raise Error(f"--out {out}: there is no folder {out.absolute().parent}")
    encoder = checkpoints.load(model, dtype=dtype, threads=threads)
    started = time.perf_counter()
    vectors = encoder.encode(batch, batch_size=batch_size, normalize_embeddings=normalize)
    seconds = time.perf_counter() - started
    if out:
        with out.open("wb") as stream:
            np.save(stream, vectors)
    if json:
        report = {"model": model, "texts": len(batch), "size": vectors.shape[1], "seconds": seconds}
        terminal.print_json(report | ({"out": str(out)} if out else {"vectors": vectors.tolist()}))
    elif out:
        rate = len(batch) / seconds
        print(f"{len(batch)} vectors of {vectors.shape[1]} numbers written to {out} ({rate:.0f} texts/s)")
    else:
        terminal.console().print(_table(batch, vectors))


def _lines(file: str) -> list[str]:
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return data.decode("utf-8").splitlines()
    except OSError as error:
        raise Error(f"--file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Error(f"--file {file} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _table(texts: list[str], vectors: np.ndarray) -> Table:
    table = Table(box=None, header_style="cyan", pad_edge=False)
    table.add_column("text", overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column("length", justify="right")
    table.add_column(f"first {_FIRST} of {vectors.shape[1]} numbers", no_wrap=True)
    for text, vector in zip(texts, vectors, strict=True):
        numbers = " ".join(f"{x:+.3f}" for x in vector[:_FIRST])
        table.add_row(Text(text), f"{np.linalg.norm(vector):.3f}", numbers)
    return table
