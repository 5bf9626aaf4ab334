"""Pages behind sliding windows are freed; and whatever stands in a page beside a text, it never reaches its logits."""

from __future__ import annotations

import numpy as np
import pytest
from tests.generation.caching import feed, poison, sequence, tokens
from tests.generation.marked_pages import check_keys, make_pool, run

import qkv
from qkv.generation.sequence import CachedSequence

KV_DTYPES = ("float32", "bfloat16", "int8")
MB = 1 << 20


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("case", ["gpt2", "mistral", "gemma2", "bloom"])
def test_what_stood_in_a_page_does_not_matter(case: str, kv_dtype: str, tiny, isa: str) -> None:  # type: ignore[no-untyped-def]
    model = qkv.load(tiny(case), kv_dtype=kv_dtype, kv_cache_bytes=MB, num_threads=2)
    texts = [tokens(210), tokens(65, 1), tokens(1, 2)]
    expected = [rows[-1] for rows in model.logits(texts)]
    for most in (1000, 37):
        model.kv_pool.clear()
        poison(model.kv_pool)
        running = [sequence(model, ids, match=False) for ids in texts]
        got = feed(model, *running, most=most)
        assert np.isfinite(got).all()
        assert np.array_equal(got, expected)
        for one in running:
            one.release()


def test_reach(tiny) -> None:  # type: ignore[no-untyped-def]
    reaches = {case: qkv.load(tiny(case)).program.reach for case in ("gpt2", "gemma2", "mistral", "bert")}
    assert reaches == {"gpt2": None, "gemma2": None, "mistral": 29, "bert": 0}


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_pages_behind_the_window_are_freed(kv_dtype: str, tiny, isa: str) -> None:  # type: ignore[no-untyped-def]
    model = qkv.load(tiny("mistral"), kv_dtype=kv_dtype, kv_cache_bytes=MB, num_threads=2)
    pool, ids = model.kv_pool, tokens(390)
    expected = model.logits([ids])[0]
    running = sequence(model, ids[:150], planned=390)
    assert np.array_equal(feed(model, running, most=70)[0], expected[149])
    assert [page >= 0 for page in running.pages] == [False, True, True]
    for n in range(151, 391, 20):
        pool.clear()
        poison(pool)  # what was freed, too
        running.ids = ids[:n]
        assert np.array_equal(feed(model, running, most=3)[0], expected[n - 1])
        assert all(page >= 0 for page in running.pages[(running.past - 29) // 64 :])
        assert sum(page >= 0 for page in running.pages) <= 3
    running.release()
    pool.clear()
    assert pool.pages_in_use == 0


def test_a_prefix_is_found_without_the_pages_that_nobody_looks_at(tiny) -> None:  # type: ignore[no-untyped-def]
    model = qkv.load(tiny("mistral"), kv_cache_bytes=MB, num_threads=1)
    pool, ids = model.kv_pool, tokens(390)
    expected = model.logits([ids])[0]
    first = sequence(model, ids[:300], match=False)
    feed(model, first)
    first.release()
    assert pool.pages_in_use == 5
    again = sequence(model, ids)
    assert again.past == 300
    assert [page >= 0 for page in again.pages] == [False] * 4 + [True]
    assert np.array_equal(feed(model, again)[0], expected[-1])
    again.release()
    early = sequence(model, ids[:200])
    assert early.past == 199
    assert np.array_equal(feed(model, early)[0], expected[199])
    early.release()


def test_pages_that_are_needed_may_not_be_absent(tiny) -> None:  # type: ignore[no-untyped-def]
    model = qkv.load(tiny("mistral"), kv_cache_bytes=MB, num_threads=1)
    for past, absent, message in (
        (92, 1, "first 1 pages, which are absent"),
        (93, 1, None),
        (140, 2, "first 2 pages, which are absent"),
        (157, 2, None),
    ):
        running = CachedSequence(model.kv_pool, tokens(past + 1), past + 1)
        running.grow(past + 1)
        running.past = past
        freed, running.pages[:absent] = running.pages[:absent], [-1] * absent
        if message:
            with pytest.raises(qkv.Error, match=message):
                feed(model, running)
        else:
            assert feed(model, running).shape == (1, model.vocab_size)
        model.kv_pool.release(freed)
        model.kv_pool.release(running.pages)
    llama = qkv.load(tiny("llama"), kv_cache_bytes=MB, num_threads=1)
    running = CachedSequence(llama.kv_pool, tokens(65), 65)
    running.past, running.pages = 64, [-1, llama.kv_pool.allocate()]
    with pytest.raises(qkv.Error, match="first 1 pages, which are absent"):
        feed(llama, running)


def test_a_gap_in_the_cached_path_is_no_gap_for_a_window() -> None:
    """An early page was given up; the ones behind it are found as long as no window reaches back to it."""
    pool = make_pool(5, reach=40)
    ids = tokens(300)
    first = CachedSequence(pool, ids, 300)
    run(pool, first, 300)
    first.release()
    assert pool.pages_in_use == 5
    other = CachedSequence(pool, tokens(130, 1), 130)
    run(pool, other, 130)  # takes three pages
    assert pool.pages_in_use == 5
    again = CachedSequence(pool, [*ids, 1], 301)
    again.match()
    check_keys(pool, again)
    other.release()
    again.release()
    pool.clear()
    assert pool.pages_in_use == 0


def test_a_window_of_one_token_keeps_no_page() -> None:
    pool = make_pool(5, reach=0)
    running = CachedSequence(pool, tokens(128), 128)
    run(pool, running, 128)
    assert running.pages == [-1, -1]
    running.release()
    pool.clear()
    assert pool.pages_in_use == 0
    assert not pool._prefixes._roots
