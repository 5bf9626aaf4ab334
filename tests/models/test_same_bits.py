"""Decision 4 of the design: a token's bits depend on nothing but the tokens before it (or around it, in encoders)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qkv
from qkv import _ext
from qkv.source import Source

CASES = ("bert", "gpt2", "llama", "llama-head-dim")
# schemes of attention and positions that single families have: on the machine's own instruction set only
UNCACHED = ("roberta-sequences", "albert", "distilbert", "t5", "marian", "bart", "mbart")
DECODERS = (
    "bloom", "falcon", "gpt_neo", "gpt_neox", "gptj", "mistral", "mixtral", "gemma2", "gemma3_text",
    "phi3-longrope-options", "qwen2", "qwen3", "starcoder2",
)  # fmt: skip
# (of weights, of keys and values)
DTYPES = (("float32", "float32"), ("bfloat16", "bfloat16"), ("int8", "int8"), ("int4", "bfloat16"))


def digest(arrays: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


def outputs(model: qkv.Model, batch: list[list[int]]) -> list[np.ndarray]:
    if model.encoder:
        return model.logits(batch, decoder_ids=[ids[::-2] for ids in batch])
    return model.logits(batch) if "logits" in model.program.outputs else model.hidden_states(batch)


def sequences(count: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 100, rng.integers(1, 150)).tolist() for _ in range(count)]


@pytest.mark.parametrize(("dtype", "kv_dtype"), DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_batch_and_threads(case: str, dtype: str, kv_dtype: str, tiny, isa: str) -> None:
    assert_batch_and_threads_do_not_matter(tiny(case), dtype, kv_dtype)


def assert_batch_and_threads_do_not_matter(folder: Path, dtype: str, kv_dtype: str) -> None:
    batch = sequences(32)
    hashes = set()
    for threads in (1, 2, 3):
        model = qkv.load(folder, dtype=dtype, kv_dtype=kv_dtype, num_threads=threads)
        for size in (1, 2, 7, 32):
            parts = [outputs(model, batch[i : i + size]) for i in range(0, 32, size)]
            hashes.add(digest([a for part in parts for a in part]))
    assert len(hashes) == 1


class Cached:
    """One sequence that grows in a KV cache, in chunks of any size."""

    def __init__(
        self, model: qkv.Model, cache: _ext.KVCache, planned: int | None = None, source: Source | None = None
    ) -> None:
        self.model, self.cache, self.source = model, cache, source
        self.planned = None if planned is None else [planned]
        self.pages: list[int] = []
        self.length = 0

    def extend(self, ids: list[int]) -> np.ndarray:
        while len(self.pages) * _ext.page_tokens < self.length + len(ids):
            self.pages.append(self.cache.allocate())
        rows = self.model.run(
            "logits",
            [np.array(ids, np.int32)],
            wanted="all",
            past=[self.length],
            planned=self.planned,
            cache=self.cache,
            pages=[self.pages],
            source=self.source,
        )
        self.length += len(ids)
        return rows


@pytest.mark.parametrize(("dtype", "kv_dtype"), DTYPES)
@pytest.mark.parametrize("case", ["gpt2", "llama", "llama-head-dim"])
@pytest.mark.parametrize("chunk", [1, 16, 64, 150])
def test_cached_equals_uncached(case: str, dtype: str, kv_dtype: str, chunk: int, tiny, isa: str) -> None:
    assert_cached_equals_uncached(qkv.load(tiny(case), dtype=dtype, kv_dtype=kv_dtype, num_threads=2), chunk)


def assert_cached_equals_uncached(model: qkv.Model, chunk: int) -> None:
    ids = sequences(1, seed=3)[0] + list(range(100))
    whole = model.logits([ids])[0]
    growing = Cached(model, model.new_cache(len(ids)), planned=len(ids))
    rows = [growing.extend(ids[i : i + chunk]) for i in range(0, len(ids), chunk)]
    assert np.concatenate(rows).tobytes() == whole.tobytes()


@pytest.mark.parametrize(("dtype", "kv_dtype"), DTYPES)
@pytest.mark.parametrize("case", UNCACHED + DECODERS)
def test_families(case: str, dtype: str, kv_dtype: str, tiny) -> None:
    assert_batch_and_threads_do_not_matter(tiny(case), dtype, kv_dtype)
    if case in UNCACHED:
        return
    model = qkv.load(tiny(case), dtype=dtype, kv_dtype=kv_dtype, num_threads=2)
    for chunk in (1, 64, 150):
        assert_cached_equals_uncached(model, chunk)


@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("case", ["t5", "mbart"])
@pytest.mark.parametrize("chunk", [1, 17])
def test_cached_equals_uncached_behind_an_encoder(case: str, kv_dtype: str, chunk: int, tiny, isa: str) -> None:
    """The source is read beside others, and alone."""
    model = qkv.load(tiny(case), dtype="int8", kv_dtype=kv_dtype, num_threads=2)
    ids, *others = sequences(3, seed=3)
    target = list(range(90))
    whole = model.logits([ids], decoder_ids=[target])[0]
    source = model.read_source([np.array(s, np.int32) for s in (*others, ids)]).part([2])
    growing = Cached(model, model.new_cache(len(target)), source=source)
    rows = [growing.extend(target[i : i + chunk]) for i in range(0, len(target), chunk)]
    assert np.concatenate(rows).tobytes() == whole.tobytes()


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.tuples(*[st.integers(1, 140)] * 3),
    steps=st.lists(st.tuples(*[st.integers(0, 70)] * 3), max_size=6),
)
@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "int8"])
def test_any_mix_of_chunks_and_sequences(kv_dtype, lengths, steps, tiny) -> None:
    """Three sequences in one cache, extended together by any numbers of tokens."""
    model = qkv.load(tiny("llama"), kv_dtype=kv_dtype)
    batch = [ids[:n] for ids, n in zip(sequences(3, seed=5), lengths, strict=True)]
    growing = Together(model, len(batch))
    for step in [*steps, lengths]:  # the last step takes what is left
        growing.extend([ids[done : done + n] for ids, done, n in zip(batch, growing.done, step, strict=True)])
    expected = model.logits(batch)
    assert [np.concatenate(rows).tobytes() for rows in growing.rows] == [e.tobytes() for e in expected]


class Together:
    """Sequences that grow side by side in one cache; those with nothing new sit a run out."""

    def __init__(self, model: qkv.Model, count: int) -> None:
        self.model, self.cache = model, model.new_cache(1000)
        self.pages: list[list[int]] = [[] for _ in range(count)]
        self.done = [0] * count
        self.rows: list[list[np.ndarray]] = [[] for _ in range(count)]

    def extend(self, new: list[list[int]]) -> None:
        chosen = [s for s, ids in enumerate(new) if ids]
        for s in chosen:
            while len(self.pages[s]) * _ext.page_tokens < self.done[s] + len(new[s]):
                self.pages[s].append(self.cache.allocate())
        if not chosen:
            return
        rows = self.model.run(
            "logits",
            [np.array(new[s], np.int32) for s in chosen],
            wanted="all",
            past=[self.done[s] for s in chosen],
            cache=self.cache,
            pages=[self.pages[s] for s in chosen],
        )
        for s, part in zip(chosen, np.split(rows, np.cumsum([len(new[s]) for s in chosen])[:-1]), strict=True):
            self.rows[s].append(part)
            self.done[s] += len(new[s])


def test_shared_pages(tiny) -> None:
    """A page with two references serves two sequences and stays until both are done."""
    model = qkv.load(tiny("gpt2"))
    prefix = sequences(1, seed=7)[0][:64]
    prefix += list(range(64 - len(prefix)))
    first = Cached(model, model.new_cache(256))
    first.extend(prefix)
    second = Cached(model, first.cache)
    first.cache.retain(first.pages[0])
    second.pages, second.length = [first.pages[0]], 64
    tail = [9, 8, 7]
    assert (
        first.extend(tail).tobytes() == second.extend(tail).tobytes() == model.logits([prefix + tail])[0][64:].tobytes()
    )
    for page in first.pages + second.pages:
        first.cache.release(page)
    assert first.cache.pages_in_use == 0


def test_threads_of_python(tiny) -> None:
    """Runs from several Python threads at once give the bits of one after the other."""
    from concurrent.futures import ThreadPoolExecutor

    model = qkv.load(tiny("bert"), num_threads=2)
    batches = [sequences(8, seed=s) for s in range(12)]
    alone = [digest(model.hidden_states(b)) for b in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda b: digest(model.hidden_states(b)), batches))
    assert alone == together
