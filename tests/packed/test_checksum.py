"""The checksum against XXH64 as its specification words it, and its published values."""

from __future__ import annotations

import numpy as np
import pytest

from qkv import _ext

MASK = 2**64 - 1
P1, P2, P3, P4, P5 = (
    11400714785074694791, 14029467366897019727, 1609587929392839161, 9650029242287828579, 2870177450012600261,
)  # fmt: skip


def rotl(x: int, bits: int) -> int:
    return (x << bits | x >> (64 - bits)) & MASK


def mixed(accumulator: int, lane: int) -> int:
    return rotl((accumulator + lane * P2) & MASK, 31) * P1 & MASK


def xxh64(data: bytes) -> int:
    at, accumulator = 0, P5
    if len(data) >= 32:
        lanes = [(P1 + P2) & MASK, P2, 0, -P1 & MASK]
        while len(data) - at >= 32:
            lanes = [mixed(v, int.from_bytes(data[at + 8 * i :][:8], "little")) for i, v in enumerate(lanes)]
            at += 32
        accumulator = sum(rotl(v, bits) for v, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & MASK
        for v in lanes:
            accumulator = ((accumulator ^ mixed(0, v)) * P1 + P4) & MASK
    accumulator = (accumulator + len(data)) & MASK
    for size, rotation in ((8, 27), (4, 23), (1, 11)):
        while len(data) - at >= size:
            lane = int.from_bytes(data[at : at + size], "little")
            if size == 8:
                accumulator = (rotl(accumulator ^ mixed(0, lane), rotation) * P1 + P4) & MASK
            elif size == 4:
                accumulator = (rotl(accumulator ^ lane * P1 & MASK, rotation) * P2 + P3) & MASK
            else:
                accumulator = rotl(accumulator ^ lane * P5 & MASK, rotation) * P1 & MASK
            at += size
    for shift, prime in ((33, P2), (29, P3), (32, 1)):
        accumulator = (accumulator ^ accumulator >> shift) * prime & MASK
    return accumulator


def test_published_values() -> None:
    assert xxh64(b"") == 0xEF46DB3751D8E999
    assert xxh64(b"abc") == 0x44BC2CF5AD770999


@pytest.mark.parametrize("size", [*range(70), 1000, 2**20 - 1, 2**20, 2**20 + 1, 2**21 + 77])
@pytest.mark.parametrize("threads", [1, 3])
def test_blocks(size: int, threads: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    blocks = [xxh64(data[i : i + 2**20].tobytes()) for i in range(0, size, 2**20)] if size < 2**20 + 2 else None
    if blocks is None:  # the reference is slow: the blocks by themselves, which the smaller sizes have shown right
        single = [_ext.checksum(data[i : i + 2**20], 1) for i in range(0, size, 2**20)]
        assert len({*single, _ext.checksum(data, threads)}) == len(single) + 1
        assert _ext.checksum(data, threads) == _ext.checksum(data, 1)
    else:
        assert _ext.checksum(data, threads) == xxh64(b"".join(b.to_bytes(8, "little") for b in blocks))
