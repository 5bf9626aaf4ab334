"""What an encoder read, in one bounded pool of pages for all texts of a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import qkv


def ids(count: int) -> np.ndarray:
    return np.arange(3, 3 + count, dtype=np.int32) % 90


@pytest.fixture
def model(tiny) -> qkv.Model:  # type: ignore[no-untyped-def]
    return load(tiny("t5"))


def load(folder: Path, pages: int = 8) -> qkv.Model:
    sizes = qkv.load(folder, num_threads=1)
    assert sizes._source_shape
    return qkv.load(folder, num_threads=1, kv_cache_bytes=2 * pages * sizes._source_shape.page_nbytes)


def test_pages_are_given_back(model: qkv.Model) -> None:
    pool = model.source_pool
    assert pool.max_pages == model.kv_pool.max_pages == 8
    batch = [ids(70), ids(3)]
    model.logits(batch, decoder_ids=[[1, 2], [3]])
    assert pool.pages_in_use == pool.reserved == 0
    source = model.read_source(batch)
    part = source.part([0])
    assert [len(p) for p in source.pages] == [2, 1]
    assert pool.pages_in_use == pool.reserved == 3
    del source
    assert pool.pages_in_use == pool.reserved == 2
    for _ in range(2):
        part.release()
    assert pool.pages_in_use == pool.reserved == 0


def test_a_failing_run_gives_pages_back(model: qkv.Model) -> None:
    with pytest.raises(qkv.Error, match="out of range"):
        model.logits([ids(70)], decoder_ids=[[10**6]])
    with pytest.raises(qkv.Error, match="out of range"):
        model.logits([ids(70), np.array([10**6])], decoder_ids=[[1], [1]])
    assert model.source_pool.pages_in_use == model.source_pool.reserved == 0


def test_no_room(model: qkv.Model) -> None:
    with pytest.raises(qkv.Error, match=r"9 pages.*kv_cache_bytes"):
        model.read_source([ids(64)] * 9)
    held = model.read_source([ids(64)] * 6)
    with pytest.raises(qkv.Error, match=r"192 tokens do not fit.*kv_cache_bytes"):
        model.read_source([ids(64)] * 3)
    room = model.source_pool.reserve(2)
    more = model.read_source([ids(64)] * 2, room)
    assert model.source_pool.reserved == 8
    held.release()
    more.release()
    assert model.source_pool.pages_in_use == model.source_pool.reserved == 0


def test_other_models_have_no_source(tiny_gpt2: Path) -> None:
    with pytest.raises(qkv.Error, match="no encoder"):
        qkv.load(tiny_gpt2).source_pool  # noqa: B018


def test_reused_pages_change_nothing(model: qkv.Model) -> None:
    """Pages come back with the bytes of others in them."""
    batch = [ids(70), ids(64), ids(1)]
    decoder = [[1, 2, 3]] * 3
    first = model.logits(batch, decoder_ids=decoder)
    pool = model.source_pool
    poison = [pool.allocate() for _ in range(8)]
    for page in poison:
        pool.cache.write(page, np.full(pool.cache.page_nbytes, 0xFF, np.uint8))
    pool.release(poison)
    again = model.logits(batch, decoder_ids=decoder)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
