"""`qkv plan`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

import qkv
from qkv.cli import checkpoints, terminal
from qkv.planning import Plan, Speed, WeightPlan


def plan(
    model: Annotated[str, typer.Argument(help="A checkpoint folder, a config.json, a hub id, or shakespeare.")],
    prompt_tokens: Annotated[
        int | None, typer.Option(min=1, help="Speeds are of a prompt this long, and of the tokens after it.")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure this machine, which takes a second or two.")
    ] = True,
    threads: terminal.Threads = None,
    json: terminal.Json = False,
) -> None:
    """Say what a model takes on this machine, from its config.json alone: memory, what fits, and how fast it can be."""
    found = qkv.plan(checkpoints.path_of(model), prompt_tokens=prompt_tokens, measure=measure, num_threads=threads)
    if json:
        terminal.print_json(found.as_json())
        return
    console = terminal.console()
    console.print(
        f"{found.model_type}, {_count(found.parameters)} parameters, {_context(found)}; "
        f"{terminal.size(found.memory_available)} of memory available",
        soft_wrap=True,
    )
    tables = [_weights_table(found)] + ([_kv_table(found)] if found.kv_cache else [])
    for table in tables:
        console.print()
        console.print(table)
    for line in _notes(found):
        console.print(f"\n{line}", style="dim", soft_wrap=True)


def _weights_table(found: Plan) -> Table:
    """A line for each type of weights; speeds only where something was measured and fits."""
    table = _table("weights", "memory", "context that fits")
    prompts, new = _has_speeds(found), any(of.new_tokens for of in found.weights.values())
    if prompts:
        what = "source, " if _has_source(found) else "prompt, " if new else ""
        table.add_column(f"{what}tokens/s", justify="right")
    if new:
        table.add_column("new tokens/s", justify="right")
    for dtype, of in found.weights.items():
        speeds = [of.prompt] * prompts + [of.new_tokens] * new
        table.add_row(dtype, terminal.size(of.nbytes), _fits(of, found.context_length), *map(_speed, speeds))
    return table


def _kv_table(found: Plan) -> Table:
    kinds = found.kv_cache or {}
    source = _has_source(found)
    table = _table("keys and values", "a token", *["a source token"] * source)
    if found.context_length:
        table.add_column(f"{found.context_length:,} tokens{' of both' if source else ''}", justify="right")
    for dtype, of in kinds.items():
        sizes = (of.token_nbytes, of.source_token_nbytes, of.sequence_nbytes)
        table.add_row(dtype, *(terminal.size(size) for size in sizes if size is not None))
    return table


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, header_style="cyan", pad_edge=False)
    table.add_column(first)
    for column in others:
        table.add_column(column, justify="right")
    return table


def _has_source(found: Plan) -> bool:
    return any(of.source_token_nbytes for of in (found.kv_cache or {}).values())


def _has_speeds(found: Plan) -> bool:
    return any(of.prompt for of in found.weights.values())


def _notes(found: Plan) -> list[str]:
    """What the speeds are about."""
    if not found.ceilings or not _has_speeds(found):
        return []
    rates = [f"{kind} {rate / 1e9:,.0f} GOP/s" for kind, rate in found.ceilings.items() if kind != "memory"]
    lines = [
        f"Speeds are about, and in brackets at most: {found.prompt_tokens} tokens at once"
        f"{', then one by one' if found.kv_cache else ''}; threads: {found.threads}; this machine gives "
        f"{', '.join(rates)} and reads {found.ceilings['memory'] / 1e9:,.1f} GB/s"
    ]
    if found.in_cache and found.kv_cache:
        lines.append("Weights that partly stay in the cache can give new tokens faster than memory allows.")
    return lines


def _context(found: Plan) -> str:
    return f"context of {found.context_length:,} tokens" if found.context_length else "context without end"


def _fits(of: WeightPlan, context: int | None) -> str:
    return {0: "none", context: "all"}.get(of.context_that_fits, f"{of.context_that_fits:,}")


def _speed(speed: Speed | None) -> str:
    return f"{_rate(speed.expected)} ({_rate(speed.at_most)})" if speed else "-"


def _rate(value: float) -> str:
    """Two digits: it is known no better."""
    return f"{float(f'{value:.2g}'):,g}" if value < 100 else f"{float(f'{value:.2g}'):,.0f}"


def _count(parameters: int) -> str:
    for unit, factor in (("billion", 1e9), ("million", 1e6)):
        if parameters >= factor:
            return f"{parameters / factor:.4g} {unit}"
    return f"{parameters:,}"
