"""A model of true size with random weights: does it open and run, and how fast?

    python -m benchmarks.true_size benchmarks/configs/gpt2-xl.json --dtype int8

takes any config.json. An encoder reads a batch of texts, a decoder a prompt and writes new tokens, an encoder and
decoder reads the batch and writes one text. Random weights are as fast as trained ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import qkv
from qkv import models
from qkv.generation import Generation
from qkv.graph import Graph
from qkv.planning.tensors import PlannedTensors, PlannedWeights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "int8", "int4"])
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch", type=int, default=8, help="texts that an encoder reads together")
    parser.add_argument("--tokens", type=int, default=128, help="of each of these")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a decoder's prompt")
    parser.add_argument("--new", type=int, default=32, help="tokens that it writes")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qkv-true-size-") as folder:
        write_checkpoint(options.config, Path(folder))
        start = time.perf_counter()
        model = qkv.load(folder, dtype=options.dtype, num_threads=options.threads)
        seconds = time.perf_counter() - start
    print(f"{options.config.stem}, {model.dtype}, {model.num_threads} threads: {model.nbytes / 1e9:.2f} GB")
    print(f"open: {seconds:.1f} s")
    for name, rate in speeds(model, options):
        print(f"{name}: {rate:,.1f} tokens/s")


def write_checkpoint(config: Path, folder: Path) -> None:
    """All tensors that a model with this config asks for, in float16, with the same random numbers over and over."""
    raw = json.loads(config.read_text())
    architecture = models.architecture(raw.get("model_type"), str(config))
    typed = architecture.Config.from_dict(raw, str(config))
    found = PlannedTensors(folder, raw, typed)
    architecture.build(Graph(), typed, PlannedWeights(found))
    shapes = {name: info.shape for name, info in found.tensors.items()}
    block = (np.random.default_rng(0).standard_normal(1 << 20) * 0.02).astype(np.float16)
    numbers = np.resize(block, max(int(np.prod(shape)) for shape in shapes.values()))
    tensors = {name: numbers[: np.prod(shape)].reshape(shape) for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(raw))


def speeds(model: qkv.Model, options: Any) -> list[tuple[str, float]]:
    """What was done, and tokens a second: medians."""
    rng = np.random.default_rng(1)
    batch = list(rng.integers(5, 1000, (options.batch, options.tokens)).astype(np.int32))
    if model.encoder:
        reading = rate(options, options.batch * options.tokens, lambda: model.read_source(batch))
        name = f"encoder, {options.batch} x {options.tokens}"
        return [(name, reading), (f"{options.new} new tokens", new_tokens(model, batch[0].tolist(), options))]
    if not writes(model):
        reading = rate(options, options.batch * options.tokens, lambda: model.hidden_states(batch))
        return [(f"encoder, {options.batch} x {options.tokens}", reading)]
    prompt = rng.integers(5, 1000, options.prompt).tolist()

    def read() -> None:
        model.kv_pool.clear()  # or it would be found there
        model.generate(prompt, max_new_tokens=1)

    return [
        (f"prompt of {options.prompt}", rate(options, options.prompt, read)),
        (f"{options.new} new tokens", new_tokens(model, prompt[:64], options)),
    ]


def writes(model: qkv.Model) -> bool:
    try:
        model.new_cache(1)
    except qkv.Error:
        return False
    return True


def rate(options: Any, tokens: int, work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(options.rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return tokens / statistics.median(times)


def new_tokens(model: qkv.Model, prompt: list[int], options: Any) -> float:
    model.generation_config["eos_token_id"] = []
    made = [model.generate(prompt, max_new_tokens=options.new) for _ in range(options.rounds)]
    return statistics.median(one.tokens_per_second for one in made if isinstance(one, Generation))


if __name__ == "__main__":
    main()
