"""Bytes of weights and of the KV cache, beside those of models that are really loaded; and what fits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open
from tests.tiny import CASES

import qkv
from qkv import _ext
from qkv.planning import planner

DTYPES = ("float32", "bfloat16", "int8", "int4")


# What a config.json leaves open: whether a T5 1.1 has its own output layer, as published ones have, and whether an
# untied BART has one token table or two.
UNTOLD = ("t5-gated-silu", "bart-untied", "marian-untied")


def check_bytes(folder: Path) -> None:
    """To the last byte, padding included: the sizes of these models are multiples of nothing."""
    planned = qkv.plan(folder, measure=False)
    assert planned.weights.keys() == set(DTYPES)
    for dtype, of in planned.weights.items():
        model = qkv.load(folder, dtype=dtype)
        assert (of.nbytes, of.kv_dtype) == (model.nbytes, model.kv_dtype)
    assert planned.context_length == model.context_length


@pytest.mark.parametrize("case", [case for case in CASES if case not in UNTOLD])
def test_bytes_equal_those_of_loaded_models(case: str, tiny) -> None:  # type: ignore[no-untyped-def]
    check_bytes(tiny(case))


@pytest.mark.parametrize("case", ["bert", "gpt2", "llama"])
def test_bytes_on_every_instruction_set(case: str, tiny, isa: str) -> None:  # type: ignore[no-untyped-def]
    check_bytes(tiny(case))


@pytest.mark.parametrize("dtype", DTYPES)
def test_bytes_of_a_real_model(minilm: Path, dtype: str) -> None:
    assert qkv.plan(minilm, measure=False).weights[dtype].nbytes == qkv.load(minilm, dtype=dtype).nbytes


@pytest.mark.parametrize("case", ["gpt2", "gpt2-untied", "llama", "llama-mha", "llama-bias"])
def test_parameters_are_what_the_checkpoint_holds(case: str, tiny) -> None:  # type: ignore[no-untyped-def]
    with safe_open(tiny(case) / "model.safetensors", "numpy") as file:
        held = sum(file.get_tensor(name).size for name in file.keys())  # noqa: SIM118 (it is no dictionary)
    assert qkv.plan(tiny(case), measure=False).parameters == held


@pytest.mark.parametrize("case", ["gpt2", "llama-mqa", "llama-head-dim"])
@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "int8"])
def test_kv_cache(case: str, kv_dtype: str, tiny) -> None:  # type: ignore[no-untyped-def]
    model = qkv.load(tiny(case), kv_dtype=kv_dtype)
    cache = model.new_cache(model.context_length)
    found = qkv.plan(tiny(case), measure=False).kv_cache
    assert found is not None
    assert found[kv_dtype].token_nbytes * _ext.page_tokens == cache.page_nbytes
    assert found[kv_dtype].sequence_nbytes == cache.page_nbytes * cache.max_pages


def test_an_encoder_caches_nothing(tiny_bert: Path) -> None:
    assert qkv.plan(tiny_bert, measure=False).kv_cache is None


def context_that_fits(folder: Path, monkeypatch: pytest.MonkeyPatch, memory: int) -> int:
    monkeypatch.setattr(planner, "available_memory", lambda: memory)
    return qkv.plan(folder, measure=False).weights["float32"].context_that_fits


def test_what_fits_beside_the_weights(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights first, then the buffers of a prompt of 400 tokens, which are float32 rows; then pages of 64 tokens."""
    model = qkv.load(tiny_llama)
    page = model.new_cache(1).page_nbytes
    hidden, heads_and_inner, rotary = 48, 48 + 2 * 16 + 101, 8
    # hidden states before and after a layer, attention's output; q, k, v; the gated layer; angles
    buffers = 400 * 4 * (3 * hidden + heads_and_inner + rotary)
    before = model.nbytes + buffers
    expected = {0: 0, model.nbytes: 0, before + page - 1: 0, before + page: 64, before + 3 * page: 192, 1 << 40: 400}
    assert {memory: context_that_fits(tiny_llama, monkeypatch, memory) for memory in expected} == expected


def test_what_fits_of_an_encoder(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbytes = qkv.load(tiny_bert).nbytes
    assert context_that_fits(tiny_bert, monkeypatch, nbytes - 1) == 0
    some = context_that_fits(tiny_bert, monkeypatch, nbytes + 100_000)
    assert 0 < some < 200
    assert context_that_fits(tiny_bert, monkeypatch, nbytes + 200_000) == pytest.approx(2 * some, abs=1)
    assert context_that_fits(tiny_bert, monkeypatch, 1 << 40) == 200


def test_nothing_is_allocated(tmp_path: Path) -> None:
    """GPT-3, 700 GB in float32, in a process that may have 1 GiB of address space more than it began with."""
    (tmp_path / "config.json").write_text(
        '{"model_type": "gpt2", "vocab_size": 50257, "n_positions": 2048, "n_embd": 12288, "n_layer": 96, "n_head": 96}'
    )
    code = f"""
import resource, qkv
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = qkv.plan({str(tmp_path)!r}, measure=False)
print(found.weights["float32"].nbytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    nbytes, kilobytes = map(int, done.stdout.split())
    assert nbytes > 690e9
    assert kilobytes < 100_000
