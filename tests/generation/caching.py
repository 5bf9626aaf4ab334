"""Runs of sequences on a model's pool of pages, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import qkv
from qkv.generation.pool import PagePool
from qkv.generation.sequence import CachedSequence, read
from qkv.generation.state import State

MB = 1 << 20


def feed(model: qkv.Model, *sequences: CachedSequence, most: int = 10**6) -> NDArray[np.float32]:
    """Runs all that is pending, in pieces of at most `most` tokens; logits of the last token of each, [n, vocab]."""
    rows = np.empty((len(sequences), model.vocab_size), np.float32)
    while any(len(s.ids) > s.past for s in sequences):
        some = [i for i, s in enumerate(sequences) if len(s.ids) > s.past]
        counts = [min(most, len(sequences[i].ids) - sequences[i].past) for i in some]
        now = [sequences[i] for i in some]
        (rows[some],) = read(model, now, counts, [1] * len(now))
    return rows


def sequence(model: qkv.Model, ids: list[int], planned: int | None = None, match: bool = True) -> CachedSequence:
    made = CachedSequence(model.kv_pool, ids, planned or len(ids))
    if match:
        made.match()
    return made


def poison(pool: PagePool) -> None:
    """Fill every free page with NaN, whatever its type."""
    pages = [pool.allocate() for _ in range(pool.max_pages - pool.pages_in_use)]
    nans = np.full(pool.cache.page_nbytes, 0xFF, np.uint8)
    for page in pages:
        pool.cache.write(page, nans)
    pool.release(pages)


def tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 100, count).tolist()


def load(folder: Path, **options: Any) -> qkv.Model:
    return qkv.load(folder, **{"num_threads": 1, "kv_cache_bytes": 2 * MB} | options)


def keep(model: qkv.Model, ids: list[int], planned: int = 200) -> State:
    """What a request leaves: the last token is not in the cache."""
    one = sequence(model, ids[:-1], planned, match=False)
    feed(model, one)
    one.ids = list(ids)
    reservation = model.kv_pool.reserve(len(one.pages))
    assert reservation
    state = State.of(model, one, reservation)
    one.release()
    reservation.release()
    return state
