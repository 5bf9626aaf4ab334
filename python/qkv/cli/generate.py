"""`qkv generate`."""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Any

import typer

from qkv.cli import checkpoints, terminal
from qkv.generation import Generation, Options


def generate(
    model: Annotated[
        str, typer.Argument(help="A checkpoint folder, a hub id, or shakespeare: the model in this package.")
    ],
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads stdin.")],
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="At most so many; 128 unless the checkpoint says otherwise.")
    ] = None,
    min_new_tokens: Annotated[int | None, typer.Option(help="At least so many.")] = None,
    max_time: Annotated[float | None, typer.Option(help="Begin no token after so many seconds.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be given several times.")] = None,
    sample: Annotated[
        bool | None,
        typer.Option(
            "--sample/--greedy", help="Draw tokens at random, as with any of the next five options, or don't."
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Divides the logits: below 1 safer, above 1 wilder.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most likely tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the most likely tokens that reach this probability.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Draw from the tokens at least so likely, as a share of the likeliest.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes drawing repeatable.")] = None,
    beams: Annotated[
        int | None, typer.Option(help="Follow so many likely texts; the best is shown at the end.")
    ] = None,
    length_penalty: Annotated[float | None, typer.Option(help="Of beams: above 0 longer, below 0 shorter.")] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1 makes tokens rarer that were there.")
    ] = None,
    no_repeat_ngram: Annotated[int | None, typer.Option(help="No so many tokens in a row come twice.")] = None,
    lookup: Annotated[int | None, typer.Option(help="Guess so many tokens from the text before: same text.")] = None,
    logprobs: Annotated[int | None, typer.Option(help="With --json, of each token and the so many likeliest.")] = None,
    dtype: terminal.Dtype = "auto",
    threads: terminal.Threads = None,
    stats: Annotated[bool, typer.Option("--stats", help="Print counts and speed on stderr.")] = False,
    json: terminal.Json = False,
) -> None:
    """Continue a text: written to stdout as it is made. What no option says is as the checkpoint
    recommends, or else greedy."""
    text = sys.stdin.read() if prompt == "-" else prompt
    decoder = checkpoints.load(model, dtype=dtype, threads=threads)
    draws = any(value is not None for value in (temperature, top_k, top_p, min_p, seed))
    said = {
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens,
        "max_time": max_time,
        "stop_strings": stop,
        "do_sample": True if draws and sample is None else sample,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "seed": seed,
        "num_beams": beams,
        "length_penalty": length_penalty,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram,
        "prompt_lookup_num_tokens": lookup,
        "logprobs": logprobs,
    }
    options: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
    shown = Options.choose(decoder, options).streamable and not json
    made = decoder.generate(text, streamer=_write if shown else None, **options)
    assert isinstance(made, Generation)
    if json:
        report = {"model": model, "prompt": text, **dataclasses.asdict(made)}
        terminal.print_json(report | {"tokens_per_second": made.tokens_per_second})
    else:
        _write("\n" if shown else f"{made}\n")
    if stats:
        print(
            f"{made.prompt_tokens} prompt tokens in {made.timings.prefill:.3f} s, then {len(made.token_ids)} "
            f"tokens at {made.tokens_per_second:.1f} tokens/s, ended by {made.finish_reason}",
            file=sys.stderr,
        )


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
