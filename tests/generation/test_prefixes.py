"""Texts that begin like earlier ones: fewer tokens are run, and every bit is the same."""

from __future__ import annotations

import mmap

import numpy as np
import pytest
from tests.generation.caching import feed, sequence, tokens

import qkv
from qkv import _ext

MB = 1 << 20
PAGE = _ext.page_tokens
KV_DTYPES = ("float32", "bfloat16", "int8")
CASES = ("gpt2", "llama", "llama-dynamic", "phi3-longrope-options", "mistral", "gemma3_text-two-ropes")


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_a_cached_prefix_gives_the_same_bits(case: str, kv_dtype: str, tiny) -> None:  # type: ignore[no-untyped-def]
    model = qkv.load(tiny(case), kv_dtype=kv_dtype, kv_cache_bytes=2 * MB, num_threads=1)
    assert model.kv_dtype == kv_dtype
    ids = tokens(230)
    first = sequence(model, ids, match=False)
    feed(model, first)
    first.release()
    for length, other in ((230, []), (200, tokens(31, 1)), (129, [5]), (128, [5]), (127, [5, 6]), (70, tokens(170, 2))):
        text = ids[:length] + [(token + 1) % 100 for token in other]
        expected = model.logits([text])[0][-1]
        again = sequence(model, text, planned=len(text))
        if case != "llama-dynamic":  # angles depend on the length of the text
            assert again.past >= min(length, len(text) - 1) or len(text) <= 100
        assert np.array_equal(feed(model, again)[0], expected)
        again.release()
    model.kv_pool.clear()
    assert model.kv_pool.pages_in_use == 0


@pytest.mark.parametrize("case", ["llama-dynamic", "phi3-longrope-options"])
def test_texts_that_turn_by_other_angles_share_nothing(case: str, tiny) -> None:  # type: ignore[no-untyped-def]
    model = qkv.load(tiny(case), kv_cache_bytes=2 * MB, num_threads=1)
    ids = tokens(90)
    classes = {planned: model.program.rotary_class(planned) for planned in (90, 100, 101, 150)}
    assert classes == {90: 0, 100: 0, 101: 101 if "dynamic" in case else 1, 150: 150 if "dynamic" in case else 1}
    found = {}
    for planned in (100, 101, 150, 100, 101, 150):
        one = sequence(model, ids, planned)
        found.setdefault(planned, []).append(one.past)
        feed(model, one)
        one.release()
    assert found == {100: [0, 89], 101: [0, 89], 150: [0 if "dynamic" in case else 89, 89]}


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_forks_copy_on_write(kv_dtype: str, tiny) -> None:  # type: ignore[no-untyped-def]
    model = qkv.load(tiny("llama"), kv_dtype=kv_dtype, kv_cache_bytes=2 * MB, num_threads=2)
    for length in (1, 63, 64, 65, 101):
        ids = tokens(length, length)
        first = sequence(model, ids, planned=200, match=False)
        feed(model, first)
        forks = [first, *(first.fork() for _ in range(3))]
        for i, one in enumerate(forks):
            one.ids += [i, *tokens(30, i)]
        got = feed(model, *forks)
        assert np.array_equal(got, [rows[-1] for rows in model.logits([one.ids for one in forks])])
        forks[1].release()
        deeper = forks[2].fork()
        deeper.ids += [1, 2]
        forks[2].ids += [3, 4]
        got = feed(model, deeper, forks[2])
        assert np.array_equal(got, [rows[-1] for rows in model.logits([deeper.ids, forks[2].ids])])
        for one in (*forks, deeper):
            one.release()
    model.kv_pool.clear()
    assert model.kv_pool.pages_in_use == 0


def parts(kv_dtype: str, dim: int, page: np.ndarray) -> dict[str, np.ndarray]:
    """The bytes of one head as csrc/kernels/attention_pages.h says, [..., 64 positions, ...] moved to [64, bytes]."""
    stride = -(-dim // 16) * 16
    if kv_dtype == "bfloat16":
        pairs = -(-dim // 2)
        keys, values = np.split(page, [pairs * PAGE * 4])
        return {
            "keys": keys.reshape(pairs, PAGE, 4).swapaxes(0, 1).reshape(PAGE, -1),
            "values": values.reshape(PAGE // 2, stride, 2, 2)[:, :dim].swapaxes(1, 2).reshape(PAGE, -1),
        }
    size = 4 if kv_dtype == "float32" else 1
    keys, values, scales = np.split(page, np.cumsum([dim * PAGE * size, PAGE * stride * size]))
    return {
        "keys": keys.reshape(dim, PAGE, size).swapaxes(0, 1).reshape(PAGE, -1),
        "values": values.reshape(PAGE, -1),
        "scales": scales.reshape(-1, PAGE, 4).swapaxes(0, 1).reshape(PAGE, -1),
    }


@pytest.mark.parametrize("dim", [1, 16, 24, 17])
@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_some_positions_of_a_page(kv_dtype: str, dim: int) -> None:
    layers, heads = 2, 3
    nbytes = _ext.page_nbytes(layers, heads, dim, kv_dtype)
    cache = _ext.KVCache(layers, heads, dim, kv_dtype, 5 * nbytes)
    written = np.random.default_rng(dim).integers(1, 256, nbytes, np.uint8)
    page = cache.allocate()
    cache.write(page, written)
    for n in (0, 1, 2, 7, 63, 64):
        copied = cache.allocate()
        half = n // 2
        cache.write(copied, cache.read(page, half))
        cache.copy(page, copied, half, n - half, 2)
        read, again = cache.read(page, n), cache.read(copied, n)
        assert np.array_equal(read, again)
        for head, expected in zip(read.reshape(layers * heads, -1), written.reshape(layers * heads, -1), strict=True):
            for name, values in parts(kv_dtype, dim, expected).items():
                got = parts(kv_dtype, dim, head)[name]
                assert np.array_equal(got[:n], values[:n]), name
                assert not got[n:].any(), name
        cache.release(copied)
    with pytest.raises(qkv.Error, match="65 positions"):
        cache.read(page, 65)
    with pytest.raises(qkv.Error, match="bytes for a page"):
        cache.write(page, written[1:])
    with pytest.raises(qkv.Error, match="page 1 is not in use"):
        cache.copy(1, page, 0, 1, 1)
    with pytest.raises(qkv.Error, match="copied to itself"):
        cache.copy(page, page, 0, 1, 1)
    with pytest.raises(qkv.Error, match="no positions 60 to 65"):
        cache.copy(page, page, 60, 5, 1)


def test_free_pages_take_no_memory() -> None:
    nbytes = _ext.page_nbytes(16, 16, 64, "float32")  # 8 MiB
    cache = _ext.KVCache(16, 16, 64, "float32", 8 * nbytes)
    pages = [cache.allocate() for _ in range(8)]
    for page in pages:
        cache.write(page, np.ones(nbytes, np.uint8))
    full = resident()
    for page in pages[1:]:
        cache.release(page)
    cache.trim()
    assert resident() < full - 6 * nbytes
    assert (cache.read(pages[0], PAGE) == 1).all()


def resident() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * mmap.PAGESIZE


def test_the_limit_of_a_model(tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    model = qkv.load(tiny("gpt2"), kv_cache_bytes=MB)
    page = model.kv_pool.cache.page_nbytes
    assert model.kv_pool is model.kv_pool
    assert model.kv_pool.max_pages == MB // page
    monkeypatch.setattr("qkv.generation.pool.available_memory", lambda: 40 * page)
    model = qkv.load(tiny("gpt2"))
    assert model.kv_cache_bytes is None
    assert model.kv_pool.max_pages == 10
    assert model.kv_cache_bytes == 10 * page
    for wrong in (0, -1, 1e9, "1", True):
        with pytest.raises(qkv.Error, match="kv_cache_bytes must be a positive integer"):
            qkv.load(tiny("gpt2"), kv_cache_bytes=wrong)
    with pytest.raises(qkv.Error, match=r"100 bytes .* hold no page of 64 tokens; one takes"):
        qkv.load(tiny("gpt2"), kv_cache_bytes=100).kv_pool  # noqa: B018
    with pytest.raises(qkv.Error, match="no causal attention"):
        qkv.load(tiny("bert")).kv_pool  # noqa: B018
