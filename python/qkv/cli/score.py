"""`qkv score`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from qkv.cli import checkpoints, terminal
from qkv.tasks.score import Text


def score(
    model: Annotated[
        str, typer.Argument(help="A checkpoint folder, a hub id, or shakespeare: the model in this package.")
    ],
    text: Annotated[str, typer.Argument(help="The text to score; - reads stdin.")],
    context: Annotated[
        str | None, typer.Option(help="What stands before the text, or what an encoder reads; it is not scored.")
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(min=1, help="Of a text of any length, the perplexity; its window moves by so many tokens."),
    ] = None,
    dtype: terminal.Dtype = "auto",
    threads: terminal.Threads = None,
    json: terminal.Json = False,
) -> None:
    """Say how likely a model finds a text: its log probability (natural logarithm) and perplexity."""
    if stride is not None and context is not None:
        raise typer.BadParameter("--stride and --context exclude each other")
    scored = sys.stdin.read() if text == "-" else text
    loaded = checkpoints.load(model, dtype=dtype, threads=threads)
    if stride is not None:
        perplexity = loaded.perplexity(scored, stride=stride)
        if json:
            terminal.print_json({"model": model, "stride": stride, "perplexity": perplexity})
        else:
            print(f"perplexity {perplexity:.4g}")
        return
    found: list[Text | tuple[Text, Text]] = [scored if context is None else (context, scored)]
    (result,) = loaded.score(found)
    if json:
        report = {"model": model, "token_ids": result.token_ids, "logprobs": result.logprobs, "total": result.total}
        terminal.print_json(report | {"perplexity": result.perplexity, "is_greedy": result.is_greedy})
    else:
        print(f"{len(result.token_ids)} tokens, log probability {result.total:.4f}, perplexity {result.perplexity:.4g}")
