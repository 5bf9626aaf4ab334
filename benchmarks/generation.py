"""What does generation cost beside the model's own runs, and what do its batches, caches and guesses gain?

    python -m benchmarks.generation FOLDER [--only NAME ...] [--dtype int8] [--threads N] [--seconds S] [--json FILE]

FOLDER: GPT-2 124M, e.g. with random weights, as benchmarks.peers.prepare makes it. Prompts are random tokens.

steps    Python and sampling in one step, beside the whole step, of 1 and of 16 texts
batch    16 requests at once through an engine, beside one
prefix   the first token of a prompt whose first 1,000 tokens are cached, beside one that is new
lookup   prompt lookup beside plain greedy decoding (see benchmarks/quoting.py for the texts)
state    whether a conversation that is kept takes no more than its pages
cancel   how long after cancel() or Ctrl-C the work has ended
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import qkv
from benchmarks import quoting
from benchmarks.interruptions import cancelled, interrupted
from qkv.cli.checkpoints import SHAKESPEARE

LEAST_ROUNDS = 3
STEPS = 64
BATCH = 16
SAMPLED = {"do_sample": True, "temperature": 0.8, "top_k": 50, "top_p": 0.9, "seed": 1}
PREFIX, TAIL = 1000, 8
LOOKUP = 10
CANCELLED = 20
rng = np.random.default_rng(0)


@dataclass(frozen=True)
class Row:
    """An answer: a figure, what it is to be at least or at most, and what it was found from."""

    question: str
    figure: float
    unit: str
    details: dict[str, float] = field(default_factory=dict)
    least: float | None = None
    most: float | None = None

    def cells(self) -> list[str]:
        bounds = {">=": self.least, "<=": self.most}
        goal = ", ".join(f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None)
        high = self.least is None or self.figure >= self.least
        low = self.most is None or self.figure <= self.most
        met = ("yes" if high and low else "no") if goal else ""
        details = ", ".join(f"{name} {value:.4g}" for name, value in self.details.items())
        return [self.question, f"{self.figure:.4g} {self.unit}", goal, met, details]


class Clocked:
    """A program that notes when its runs begin and end."""

    def __init__(self, program: Any) -> None:
        self._program = program
        self.times: list[tuple[float, float]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)

    def run(self, *arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._program.run(*arguments)
        finally:
            self.times.append((start, time.perf_counter()))


def steps(model: qkv.Model, options: argparse.Namespace) -> Iterator[Row]:
    clocked: Any = Clocked(model.program)
    model.program = clocked

    def of_step(prompts: list[list[int]], how: dict[str, Any]) -> np.ndarray:
        """Seconds from the end of one run to that of the next, and what of these is not a run; means of a call."""
        clocked.times.clear()
        model.generate(prompts, max_new_tokens=1 + STEPS, eos_token_id=[], **how)
        starts, ends = np.array(clocked.times[-STEPS:]).T
        return np.array([np.diff(ends).mean(), (starts[1:] - ends[:-1]).mean()])

    try:
        for texts in (1, BATCH):
            prompts = random_ids(texts, 32)
            for name, how in (("greedy", {}), ("sampled", SAMPLED)):
                found = rounds(partial(of_step, prompts, how), options.seconds)
                step, beside = np.median(found, axis=0)
                share = float(np.median([100 * b / s for s, b in found]))
                details = {"step, ms": 1e3 * step, "Python and sampling, ms": 1e3 * beside, "share, %": share}
                question = f"a step of {texts}, {name}: not the model's run"
                if texts == 1:
                    yield Row(question, share, "%", details, most=3)
                else:
                    yield Row(question, 1e3 * float(beside), "ms", details, most=0.3)
    finally:
        model.program = clocked._program


def batch(model: qkv.Model, options: argparse.Namespace) -> Iterator[Row]:
    prompts = random_ids(BATCH, 32)
    with qkv.Engine(model) as engine:

        def rate(some: Sequence[list[int]]) -> float:
            model.kv_pool.clear()
            start = time.perf_counter()
            submitted = [engine.submit(prompt, max_new_tokens=STEPS) for prompt in some]
            tokens = sum(len(one(each.result()).token_ids) for each in submitted)
            return tokens / (time.perf_counter() - start)

        found = rounds(lambda: (rate(prompts[:1]), rate(prompts)), options.seconds)
    alone, together = np.median(found, axis=0)
    ratio = statistics.median(t / a for a, t in found)
    details = {"alone, tokens/s": alone, "together, tokens/s": together}
    yield Row(f"{BATCH} requests through an engine, beside one", ratio, "x", details, least=4)


def prefix(model: qkv.Model, options: argparse.Namespace) -> Iterator[Row]:
    def seconds(prompt: list[int], cached: int) -> float:
        start = time.perf_counter()
        made = one(model.generate(prompt, max_new_tokens=1))
        passed = time.perf_counter() - start
        assert made.cached_tokens == cached, made.cached_tokens
        return passed

    def cold_and_warm() -> tuple[float, float]:
        (shared,), tails = random_ids(1, PREFIX), [[5, *random_ids(1, TAIL - 1)[0]], [6, *random_ids(1, TAIL - 1)[0]]]
        model.kv_pool.clear()
        return seconds(shared + tails[0], 0), seconds(shared + tails[1], PREFIX)

    found = rounds(cold_and_warm, options.seconds)
    cold, warm = np.median(found, axis=0)
    ratio = statistics.median(c / w for c, w in found)
    question = f"first token behind {PREFIX} + {TAIL} tokens, with the {PREFIX} cached"
    yield Row(question, ratio, "x", {"cold, ms": 1e3 * cold, "warm, ms": 1e3 * warm}, least=20)


def lookup(model: qkv.Model, options: argparse.Namespace) -> Iterator[Row]:
    for name, (prompt, text) in quoting.texts().items():
        with tempfile.TemporaryDirectory(prefix="qkv-quoting-") as folder:
            quoting.write_quoting_gpt2(options.folder, Path(folder), prompt + text)
            writer = opened(Path(folder), options)
        assert one(writer.generate(prompt, max_new_tokens=len(text))).token_ids == text
        yield looked_up(writer, f"GPT-2 led to write a {name}", prompt, len(text), options.seconds, least=1.5)
    writer = opened(SHAKESPEARE, options)
    assert writer.tokenizer
    scene = quoting.SCENE.read_text(encoding="utf-8")[:600]
    prompt = writer.tokenizer.encode(scene).ids
    yield looked_up(writer, "the package's language model, its own text", prompt, 200, options.seconds)


def looked_up(
    model: qkv.Model, name: str, prompt: list[int], tokens: int, seconds: float, least: float | None = None
) -> Row:
    def both() -> tuple[qkv.Generation, qkv.Generation]:
        plain = one(model.generate(prompt, max_new_tokens=tokens, do_sample=False))
        guessed = one(model.generate(prompt, max_new_tokens=tokens, do_sample=False, prompt_lookup_num_tokens=LOOKUP))
        assert plain.token_ids == guessed.token_ids
        return plain, guessed

    found = rounds(both, seconds)
    speculation = found[0][1].speculation
    assert speculation
    details = {
        "plain, tokens/s": statistics.median(plain.tokens_per_second for plain, _ in found),
        "lookup, tokens/s": statistics.median(guessed.tokens_per_second for _, guessed in found),
        "guesses right, %": 100 * speculation.acceptance,
        "guessed": speculation.drafted,
        "new tokens": tokens,
    }
    ratio = statistics.median(guessed.tokens_per_second / plain.tokens_per_second for plain, guessed in found)
    return Row(f"prompt lookup: {name}", ratio, "x", details, least=least)


def state(model: qkv.Model, options: argparse.Namespace) -> Iterator[Row]:
    pool = model.kv_pool
    pool.clear()
    made = one(model.generate(random_ids(1, 100)[0], max_new_tokens=STEPS, keep_state=True))
    pool.clear()
    assert made.state
    with made.state as kept:
        held = pool.pages_in_use * pool.cache.page_nbytes
        details = {"its tokens": len(kept), "its MB": kept.nbytes / 1e6, "a page's MB": pool.cache.page_nbytes / 1e6}
        question = "a state kept: its bytes, beside those of all pages in use"
        yield Row(question, kept.nbytes / held, "x", details, least=1, most=1)


def cancel(model: qkv.Model, options: argparse.Namespace) -> Iterator[Row]:
    """Delays are random, so that every part of a run is met."""
    long, short = random_ids(1, PREFIX)[0], random_ids(1, 32)[0]
    start = time.perf_counter()
    model.kv_pool.clear()
    model.generate(long, max_new_tokens=1)
    reading = time.perf_counter() - start
    for phase, prompt, delays in (
        ("a prompt is read", long, rng.uniform(0.05, 0.6, CANCELLED) * reading),
        ("a text is written", short, rng.uniform(0.5, 0.6, CANCELLED)),
    ):
        for way, ended in (("cancel()", cancelled), ("Ctrl-C", interrupted)):
            seconds = [ended(model, prompt, delay) for delay in delays]
            details = {"median, ms": 1e3 * statistics.median(seconds), "tries": CANCELLED}
            yield Row(f"{way} while {phase}: the longest wait", 1e3 * max(seconds), "ms", details, most=250)


def rounds(work: Callable[[], Any], seconds: float) -> list[Any]:
    """What `work` returned, after a first time that does not count."""
    work()
    found: list[Any] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found) < LEAST_ROUNDS:
        found.append(work())
    return found


def one(made: Any) -> qkv.Generation:
    assert isinstance(made, qkv.Generation)
    return made


def random_ids(rows: int, length: int) -> list[list[int]]:
    return [row.tolist() for row in rng.integers(10, 30000, (rows, length))]


def opened(folder: Path, options: argparse.Namespace) -> qkv.Model:
    """A model that never ends a text by itself."""
    model = qkv.load(folder, dtype=options.dtype, num_threads=options.threads)
    model.generation_config["eos_token_id"] = []
    return model


PARTS = {part.__name__: part for part in (steps, batch, prefix, lookup, state, cancel)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--dtype", default="int8", choices=["float32", "bfloat16", "int8", "int4"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each line of the table, at least")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = opened(options.folder, options)
    rows = [row for name in options.only for row in PARTS[name](model, options)]
    table = Table("question", "figure", "goal", "met", "from", title=f"{model}, {model.num_threads} threads")
    for row in rows:
        table.add_row(*row.cells())
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
