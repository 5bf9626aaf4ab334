"""The same work by several engines in turns, and the table of who did how much."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.peers.worker import Worker
from qkv.machine import default_threads

LEAST_ROUNDS = 3
PROMPT, SHORT_PROMPT, NEW_TOKENS = 512, 32, 64


@dataclass(frozen=True)
class Case:
    """Some work: its name with the unit of its rate, how many of that unit it is, and the seconds a worker takes."""

    name: str
    amount: float
    seconds: Callable[[Worker], float]


@dataclass
class Report:
    """Figures of one dtype: the first engine's rates, and every engine's beside it."""

    title: str
    engines: dict[str, str]
    facts: dict[str, dict[str, float]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def print(self) -> None:
        ours, *peers = self.engines
        table = Table("work", title=self.title, caption="In brackets: how many times as fast qkv is")
        for engine in self.engines:
            table.add_column(engine.replace(" ", "\n"), justify="right")
        for row in self.rows:
            rates = {engine: f"{rate:,.4g}" for engine, rate in row["rates"].items()}
            beside = [f"{rates[peer]} ({row['ratios'][peer]:.2f})" for peer in peers]
            table.add_row(row["work"], rates[ours], *beside)
        for name, values in self.facts.items():
            table.add_row(name, *(f"{value:,.4g}" for value in values.values()))
        console = Console()
        console.print(table)
        for about in self.engines.values():
            console.print(about, style="dim", highlight=False)


def arguments_of(question: str, dtypes: Iterable[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=question, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True, help="the folder that benchmarks.peers.prepare filled")
    parser.add_argument("--dtypes", nargs="+", choices=list(dtypes), default=list(dtypes))
    parser.add_argument("--ours", help="dtype of qkv's weights, by default that of its peers")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--cpu-time", action="store_true", help="time on a core, on one thread: for a busy machine")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each line of a table, at least")
    parser.add_argument("--json", type=Path)
    return parser


def compare(
    title: str,
    checkpoint: Path,
    dtype: str,
    peers: Iterable[str],
    cases: Sequence[Case],
    arguments: argparse.Namespace,
    facts: Mapping[str, Callable[[Worker], float]] | None = None,
) -> Report:
    """Opens qkv and its peers, each in a process of its own, asks each for the facts and lets them do the cases in
    turns. A peer has weights of `dtype` unless its name goes on with others: "CTranslate2 float32"."""
    threads = 1 if arguments.cpu_time else arguments.threads
    with ExitStack() as stack:
        workers = {}
        for name in (f"Qkv {arguments.ours or dtype}", *peers):
            engine, _, own = name.partition(" ")
            weights = own or dtype
            worker = Worker(engine, checkpoint=checkpoint, dtype=weights, threads=threads, cpu_time=arguments.cpu_time)
            workers[f"{engine} {weights}"] = stack.enter_context(closing(worker))
        report = Report(title, {name: worker.about for name, worker in workers.items()})
        for name, fact in (facts or {}).items():
            report.facts[name] = {engine: fact(worker) for engine, worker in workers.items()}
        for case in cases:
            report.rows.append(measure(case, workers, arguments.seconds))
    report.print()
    return report


def measure(case: Case, workers: dict[str, Worker], seconds: float) -> dict[str, Any]:
    """Medians over rounds in which each engine had its turn; a ratio is the median of the rounds' own ratios."""
    rounds: list[dict[str, float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rounds) < LEAST_ROUNDS:
        rounds.append({name: case.seconds(worker) for name, worker in workers.items()})
    ours, *peers = workers
    return {
        "work": case.name,
        "rounds": len(rounds),
        "rates": {name: case.amount / statistics.median(r[name] for r in rounds) for name in workers},
        "best_rates": {name: case.amount / min(r[name] for r in rounds) for name in workers},
        "ratios": {peer: statistics.median(r[peer] / r[ours] for r in rounds) for peer in peers},
    }


def encoder_case(rows: int, length: int) -> Case:
    ids = random_ids(rows, length)
    mask = np.ones_like(ids)
    return Case(f"{rows} x {length}, tokens/s", ids.size, lambda w: w.time("hidden_states", ids, mask))


def decoder_cases() -> list[Case]:
    """A prompt's first logits; and what more tokens cost than one, the prompt's own time taken off."""
    prompt, short = random_ids(PROMPT), random_ids(SHORT_PROMPT)
    return [
        Case(f"prompt of {PROMPT}, tokens/s", PROMPT, lambda w: w.time("prefill", prompt)),
        Case(
            f"{NEW_TOKENS} new tokens, tokens/s",
            NEW_TOKENS,
            lambda w: w.time("generate", short, 1 + NEW_TOKENS) - w.time("generate", short, 1),
        ),
    ]


def random_ids(*shape: int) -> np.ndarray:
    """Of words, not of the special tokens at the start of the vocabulary."""
    return np.random.default_rng(0).integers(5, 30000, shape)


def write(reports: Sequence[Report], path: Path | None) -> None:
    if path:
        path.write_text(json.dumps([vars(report) for report in reports], indent=2), encoding="utf-8")
