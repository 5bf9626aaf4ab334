"""`qkv generate`."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated

import typer

from qkv.cli import checkpoints, terminal
from qkv.generation import Generation


def generate(
    model: Annotated[
        str, typer.Argument(help="A checkpoint folder, a hub id, or shakespeare: the model in this package.")
    ],
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads stdin.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most so many new tokens.")] = 128,
    sample: Annotated[
        bool, typer.Option("--sample", help="Draw tokens at random; so does any of the next four options.")
    ] = False,
    temperature: Annotated[
        float | None, typer.Option(help="Divides the logits: below 1 safer, above 1 wilder.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most likely tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the most likely tokens that reach this probability.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes drawing repeatable.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given several times.")] = None,
    dtype: terminal.Dtype = "auto",
    threads: terminal.Threads = None,
    stats: Annotated[bool, typer.Option("--stats", help="Print counts and speed on stderr.")] = False,
    json: terminal.Json = False,
) -> None:
    """Continue a text: written to stdout as it is made. Greedy unless an option asks for sampling."""
    text = sys.stdin.read() if prompt == "-" else prompt
    decoder = checkpoints.load(model, dtype=dtype, threads=threads)
    made = decoder.generate(
        text,
        max_new_tokens=max_new_tokens,
        do_sample=sample or any(value is not None for value in (temperature, top_k, top_p, seed)),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop_strings=stop,
        streamer=None if json else _write,
    )
    assert isinstance(made, Generation)
    if json:
        report = {"model": model, "prompt": text, **dataclasses.asdict(made)}
        terminal.print_json(report | {"tokens_per_second": made.tokens_per_second})
    else:
        _write("\n")
    if stats:
        print(
            f"{made.prompt_tokens} prompt tokens in {made.timings.prefill:.3f} s, then {len(made.token_ids)} "
            f"tokens at {made.tokens_per_second:.1f} tokens/s, ended by {made.finish_reason}",
            file=sys.stderr,
        )


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
