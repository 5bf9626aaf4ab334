"""What could any engine do at most on this machine, with the same models?

    python -m benchmarks.peers.ceilings [--threads N] [--json FILE]

Measures multiplications in registers and memory read in order, on all threads at once, with a few lines of C++ that
the compiler c++ makes for this machine. From them follow the most tokens/s: of prompts by arithmetic (attention
included), of one new token at a time by reading every weight once. 0: the machine has no such instruction."""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from qkv.machine import default_threads

REPEATS = 20
BLOCK = 1 << 28  # bytes that each thread reads: far beyond any cache
# Bytes of one weight; int4 with a float16 scale for each 32, as q4_0 has it.
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1, "int4": 0.5 + 2 / 32}


@dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    matrices: int  # weights of one layer
    head: int = 0
    causal: bool = True

    def prompt(self, tokens: int) -> float:
        """Operations of one token, its share of the attention to all others included, without the head."""
        seen = tokens / 2 if self.causal else tokens
        return 2 * self.layers * (self.matrices + 2 * seen * self.hidden)

    def weights(self) -> int:
        return self.layers * self.matrices + self.head


BERT = Shape(12, 768, 4 * 768**2 + 2 * 768 * 3072, causal=False)
GPT2 = Shape(12, 768, 4 * 768**2 + 2 * 768 * 3072, head=768 * 50257)
LLAMA = Shape(22, 2048, 2 * 2048**2 + 2 * 2048 * 256 + 3 * 2048 * 5632, head=2048 * 32000)


def measure(threads: int) -> dict[str, float]:
    """Operations or bytes a second, the best of several tries."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "ceilings.so"
        source = Path(__file__).with_suffix(".cpp")
        subprocess.run(["c++", "-O3", "-march=native", "-shared", "-fPIC", "-o", library, source], check=True)
        functions = ctypes.CDLL(str(library))
    blocks = [np.ones(BLOCK, np.uint8) for _ in range(threads)]
    rates = {}
    with ThreadPoolExecutor(threads) as pool:
        for name in ("float32", "bfloat16", "int8", "read"):
            function = getattr(functions, name)
            function.restype = ctypes.c_int64
            if name == "read":
                work = [(ctypes.c_void_p(block.ctypes.data), ctypes.c_int64(BLOCK)) for block in blocks]
            else:
                work = [(ctypes.c_int64(4_000_000),)] * threads
            rates[name] = max(rate(pool, function, work) for _ in range(REPEATS))
    return rates


def rate(pool: ThreadPoolExecutor, function: ctypes._CFuncPtr, work: list[tuple[Any, ...]]) -> float:
    """Of all threads together, each by its own clock, which stands still while another process has the core."""

    def one(arguments: tuple[Any, ...]) -> float:
        start = time.thread_time()
        done: int = function(*arguments)
        return done / (time.thread_time() - start)

    return sum(pool.map(one, work))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rates = measure(arguments.threads)

    # bfloat16 weights may also be widened and multiplied as float32, int4 ones are multiplied as int8.
    compute = {
        "float32": rates["float32"],
        "bfloat16": max(rates["float32"], rates["bfloat16"]),
        "int8": rates["int8"],
        "int4": rates["int8"],
    }
    rows = {
        "BERT-base, 128 tokens": {name: rate / BERT.prompt(128) for name, rate in compute.items()},
        "BERT-base, 512 tokens": {name: rate / BERT.prompt(512) for name, rate in compute.items()},
        "GPT-2, prompt of 512": {name: rate / GPT2.prompt(512) for name, rate in compute.items()},
        "GPT-2, one new token": {name: rates["read"] / GPT2.weights() / BYTES[name] for name in BYTES},
        "LLaMA 1.1B, prompt of 512": {name: rate / LLAMA.prompt(512) for name, rate in compute.items()},
        "LLaMA 1.1B, one new token": {name: rates["read"] / LLAMA.weights() / BYTES[name] for name in BYTES},
    }
    measured = ", ".join(f"{name} {rates[name] / 1e9:,.0f}" for name in ("float32", "bfloat16", "int8"))
    table = Table(
        "at most, tokens/s", title=f"{arguments.threads} threads: {rates['read'] / 1e9:.1f} GB/s; Gop/s: {measured}"
    )
    for name in compute:
        table.add_column(name, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{value:,.4g}" for value in row.values()))
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rates": rates, "tokens_per_second": rows}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
