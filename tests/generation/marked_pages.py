"""A pool without a model: in place of each key stands a mark of all tokens up to there, so that mixed-up pages show."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from qkv import _ext
from qkv.generation.pool import PagePool, pages_for
from qkv.generation.sequence import CachedSequence
from qkv.graph import CacheShape

SHAPE = CacheShape(layers=1, kv_heads=1, head_dim=1, dtype="float32")
PAGE = _ext.page_tokens


@dataclass
class Program:
    """What a pool asks of a program."""

    reach: int | None = None

    def rotary_class(self, planned: int) -> int:
        return 0 if planned <= 230 else planned


def make_pool(pages: int, reach: int | None = None) -> PagePool:
    return PagePool(SHAPE, pages * SHAPE.page_nbytes, Program(reach))  # type: ignore[arg-type]


def read_keys(pool: PagePool, page: int) -> np.ndarray:
    return pool.cache.read(page, PAGE)[: PAGE * 4].view(np.float32)


def mark(ids: list[int]) -> float:
    """What stands for the key of the last of these tokens: it depends on all of them."""
    return float(zlib.crc32(np.array(ids, np.int32).tobytes()) & 0xFFFFFF)


def run(pool: PagePool, sequence: CachedSequence, tokens: int, trial: int = 0) -> None:
    """What the scheduler does; the keys of positions on trial are nonsense."""
    past = sequence.past
    sequence.grow(past + tokens + trial)
    for position in range(past, past + tokens + trial):
        page, slot = sequence.pages[position // PAGE], position % PAGE
        data = pool.cache.read(page, PAGE)
        assert pool.cache.references(page) == 1
        key = mark(sequence.ids[: position + 1]) if position < past + tokens else -1.0
        data[: PAGE * 4].view(np.float32)[slot] = key
        pool.cache.write(page, data)
    sequence.advance(tokens)


def check_keys(pool: PagePool, sequence: CachedSequence) -> None:
    for i, page in enumerate(sequence.pages[: pages_for(sequence.past)]):
        if page < 0:
            assert pool.reach is not None
            assert (i + 1) * PAGE <= sequence.past - pool.reach
            continue
        keys = read_keys(pool, page)
        for position in range(i * PAGE, min((i + 1) * PAGE, sequence.past)):
            assert keys[position - i * PAGE] == mark(sequence.ids[: position + 1])
