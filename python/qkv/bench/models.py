"""Whole models of real size with random weights: what arrives of the ceilings in the end."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

import qkv
from qkv.bench.kernels import arithmetic
from qkv.bench.timing import Case, Job, Machine, timer
from qkv.generation import Generation

HIDDEN, LAYERS, HEADS, INNER = 768, 12, 12, 3072
VOCABULARY = 50257  # of GPT-2; of BERT's only as many rows as there are tokens are read
PROMPT, NEW_TOKENS = 64, 32  # of decoding


def end_to_end(machine: Machine, dtype: str) -> Iterator[Case]:
    """An encoder of BERT-base's shape on batches, and a decoder of GPT-2's on a prompt and token by token."""
    for sequences, tokens in ((1, 16), (1, 128)) if machine.quick else ((1, 16), (1, 128), (16, 128), (4, 512)):
        yield _encoder_case(machine, dtype, sequences, tokens)
    if not machine.quick:
        yield _prefill_case(machine, dtype)
    yield _decode_case(machine, dtype)


def _case(dtype: str, name: str, shape: str, of: str, make: Callable[[], Job]) -> Case:
    return Case("end-to-end", name, shape, dtype, "tokens/s", of, None, make)


def _flops(sequences: int, tokens: int, *, causal: bool) -> float:
    """Operations of the layers: their matrices once a token, and scores and values once a pair of tokens."""
    matrices = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER
    pairs = tokens * (tokens + 1) / 2 if causal else tokens * tokens
    return sequences * LAYERS * (2.0 * tokens * matrices + 4.0 * pairs * HIDDEN)


def _encoder_case(machine: Machine, dtype: str, sequences: int, tokens: int) -> Case:
    def make() -> Job:
        model = _bert(dtype, machine.threads)
        ids = list(np.random.default_rng(0).integers(0, 1000, (sequences, tokens)))
        model.hidden_states([ids[0][:1]])
        call = timer(lambda: model.hidden_states(ids), warm=False)
        return Job(call, work=sequences * tokens, cost=_flops(sequences, tokens, causal=False))

    return _case(dtype, "BERT-base", f"{sequences} × {tokens}", arithmetic(dtype), make)


def _prefill_case(machine: Machine, dtype: str) -> Case:
    tokens = 512

    def make() -> Job:
        """The prompt's keys and values go into a cache, and its last token's logits come out."""
        model = _gpt2(dtype, machine.threads)
        ids = np.random.default_rng(0).integers(0, VOCABULARY, tokens).astype(np.int32)
        cache = model.new_cache(tokens)
        pages = [cache.allocate() for _ in range(cache.max_pages)]
        call = timer(lambda: model.run("logits", [ids], wanted="last", past=[0], cache=cache, pages=[pages]))
        return Job(call, work=tokens, cost=_flops(1, tokens, causal=True) + 2.0 * VOCABULARY * HIDDEN)

    return _case(dtype, "GPT-2 prompt", f"1 × {tokens}", arithmetic(dtype), make)


def _decode_case(machine: Machine, dtype: str) -> Case:
    def make() -> Job:
        """Every weight and every cached key and value is read for each token."""
        model = _gpt2(dtype, machine.threads)
        prompt = np.random.default_rng(0).integers(0, VOCABULARY, PROMPT).tolist()

        def seconds_of(seconds: float) -> float:
            made = model.generate(prompt, max_new_tokens=NEW_TOKENS)
            assert isinstance(made, Generation)
            return 1 / made.tokens_per_second

        cached = PROMPT + NEW_TOKENS / 2
        # nbytes includes the table of positions, of which one row is read: 0.3 %
        return Job(seconds_of, work=1, cost=model.nbytes + cached * LAYERS * 2 * HIDDEN * 4)

    return _case(dtype, "GPT-2 decode", f"after {PROMPT}", "memory", make)


@functools.lru_cache(maxsize=1)
def _bert(dtype: str, threads: int) -> qkv.Model:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (1000, HIDDEN),
        "embeddings.position_embeddings.weight": (512, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "embeddings.LayerNorm.weight": (HIDDEN,),
        "embeddings.LayerNorm.bias": (HIDDEN,),
    }
    for i in range(LAYERS):
        for name, out, n in (
            *((f"attention.{part}", HIDDEN, HIDDEN) for part in ("self.query", "self.key", "self.value")),
            ("attention.output.dense", HIDDEN, HIDDEN),
            ("intermediate.dense", INNER, HIDDEN),
            ("output.dense", HIDDEN, INNER),
        ):
            shapes |= {f"encoder.layer.{i}.{name}.weight": (out, n), f"encoder.layer.{i}.{name}.bias": (out,)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"encoder.layer.{i}.{name}.{kind}": (HIDDEN,) for kind in ("weight", "bias")}
    config = {
        "model_type": "bert", "vocab_size": 1000, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "intermediate_size": INNER, "max_position_embeddings": 512, "type_vocab_size": 2,
    }  # fmt: skip
    return _random(config, shapes, dtype, threads)


@functools.lru_cache(maxsize=1)
def _gpt2(dtype: str, threads: int) -> qkv.Model:
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (VOCABULARY, HIDDEN),
        "wpe.weight": (512, HIDDEN),
        "ln_f.weight": (HIDDEN,),
        "ln_f.bias": (HIDDEN,),
    }
    for i in range(LAYERS):
        for name, n, out in (
            ("attn.c_attn", HIDDEN, 3 * HIDDEN),
            ("attn.c_proj", HIDDEN, HIDDEN),
            ("mlp.c_fc", HIDDEN, INNER),
            ("mlp.c_proj", INNER, HIDDEN),
        ):
            shapes |= {f"h.{i}.{name}.weight": (n, out), f"h.{i}.{name}.bias": (out,)}
        shapes |= {f"h.{i}.{name}.{kind}": (HIDDEN,) for name in ("ln_1", "ln_2") for kind in ("weight", "bias")}
    config = {
        "model_type": "gpt2", "vocab_size": VOCABULARY, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS,
        "n_positions": 512,
    }  # fmt: skip
    return _random(config, shapes, dtype, threads)


def _random(config: dict[str, Any], shapes: dict[str, tuple[int, ...]], dtype: str, threads: int) -> qkv.Model:
    """A model opened from a temporary checkpoint. All tensors hold the same random numbers: speed doesn't care."""
    largest = max(int(np.prod(shape)) for shape in shapes.values())
    block = (np.random.default_rng(0).standard_normal(1 << 20) * 0.02).astype(np.float16)
    numbers: npt.NDArray[np.float16] = np.resize(block, largest)
    tensors = {name: numbers[: np.prod(shape)].reshape(shape) for name, shape in shapes.items()}
    with tempfile.TemporaryDirectory(prefix="qkv-bench-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        save_file(tensors, Path(folder) / "model.safetensors")
        return qkv.load(folder, dtype=dtype, num_threads=threads)
