"""Conversations kept in memory and in files, and continued with the same bits."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.generation.caching import feed, keep, load, poison, sequence, tokens

import qkv
from qkv import _ext
from qkv.generation.sequence import CachedSequence
from qkv.generation.state import State

CASES = ("gpt2", "llama-dynamic", "mistral", "gemma2")
KV_DTYPES = ("float32", "bfloat16", "int8")


@pytest.fixture(scope="module")
def gpt2(tiny) -> qkv.Model:  # type: ignore[no-untyped-def]
    return load(tiny("gpt2"))


def go_on(model: qkv.Model, state: State, ids: list[int], planned: int = 200) -> np.ndarray:
    one = state.sequence(ids, planned)
    one.match()
    row = feed(model, one)[0]
    one.release()
    return row


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_going_on(case: str, kv_dtype: str, tiny, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = load(tiny(case), kv_dtype=kv_dtype)
    for length in (2, 64, 65, 66, 180):
        ids, more = tokens(length), tokens(18, 1)
        state = keep(model, ids)
        assert len(state) == length == state.past + 1
        state.save(tmp_path / "state")
        model.kv_pool.clear()
        poison(model.kv_pool)
        loaded = model.load_state(tmp_path / "state")
        assert (loaded.ids, loaded.past) == (ids, length - 1)
        for planned in (length + 18, 200):
            fresh = sequence(model, ids + more, planned, match=False)
            expected = feed(model, fresh)[0]
            fresh.release()
            model.kv_pool.clear()
            assert np.array_equal(go_on(model, loaded, more, planned), expected)
            assert np.array_equal(go_on(model, state, more, planned), expected)
        again = state.sequence([], 200)
        assert again.past == length - 1
        again.release()
        state.release()
        loaded.release()
        model.kv_pool.clear()
        assert model.kv_pool.pages_in_use == model.kv_pool.reserved == 0


def test_a_state_that_is_read_to_its_end(tiny) -> None:  # type: ignore[no-untyped-def]
    """The last token is run again; behind a window that needs pages which are gone, all of them are."""
    model = load(tiny("mistral"))
    for length in (93, 94, 128, 157):
        ids = tokens(length)
        one = sequence(model, ids, 200, match=False)
        expected = feed(model, one)[0]
        reservation = model.kv_pool.reserve(4)
        assert reservation
        with State.of(model, one, reservation) as state:
            one.release()
            assert np.array_equal(go_on(model, state, []), expected)
        reservation.release()


OTHER_PROCESS = """
import hashlib, sys
import qkv
from tests.generation.caching import feed
model = qkv.load(sys.argv[1], num_threads=2, kv_dtype=sys.argv[3])
one = model.load_state(sys.argv[2]).sequence([int(token) for token in sys.argv[4].split()], 200)
assert one.past == 99
print(hashlib.sha256(feed(model, one).tobytes()).hexdigest())
"""


@pytest.mark.parametrize(("case", "kv_dtype"), [("gpt2", "int8"), ("mistral", "bfloat16")])
def test_in_another_process(case: str, kv_dtype: str, tiny, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    model = load(tiny(case), kv_dtype=kv_dtype)
    ids, more = tokens(100), tokens(5, 1)
    keep(model, ids).save(tmp_path / "state")
    expected = hashlib.sha256(model.logits([ids + more])[0][-1].tobytes()).hexdigest()
    arguments = [str(tiny(case)), str(tmp_path / "state"), kv_dtype, " ".join(map(str, more))]
    found = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, *arguments], capture_output=True, text=True, check=False, env=os.environ
    )
    assert found.stdout.strip() == expected, found.stderr


def test_what_others_made_is_for_its_own_text_only(gpt2: qkv.Model, tmp_path: Path) -> None:
    """A file may hold anything; it must not become the cached prefix of other texts."""
    gpt2.kv_pool.clear()
    ids = tokens(100)
    keep(gpt2, ids).save(tmp_path / "state")
    gpt2.kv_pool.clear()
    with gpt2.load_state(tmp_path / "state") as state:
        go_on(gpt2, state, tokens(80, 1))
        assert gpt2.kv_pool.pages_in_use == 2
        assert sequence(gpt2, ids).past == 0
    assert gpt2.kv_pool.pages_in_use == 0


def test_memory(gpt2: qkv.Model) -> None:
    pool = gpt2.kv_pool
    pool.clear()
    state = keep(gpt2, tokens(130))
    assert pool.reserved == 3
    assert repr(state) == f"<qkv.State of 130 tokens, {3 * pool.cache.page_nbytes / 1e6:.1f} MB>"
    pool.clear()
    assert pool.pages_in_use == 3
    for _ in range(2):
        state.release()
    assert pool.pages_in_use == pool.reserved == 0
    assert repr(state) == "<qkv.State of 130 tokens, released>"
    with pytest.raises(qkv.Error, match="released"):
        state.sequence([1], 140)
    with pytest.raises(qkv.Error, match="released"):
        state.save("state")
    with keep(gpt2, tokens(130)):
        assert pool.reserved == 3
    assert pool.reserved == 0
    keep(gpt2, tokens(130))  # forgotten
    pool.clear()
    assert pool.pages_in_use == pool.reserved == 0


def test_no_room(gpt2: qkv.Model, tiny, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    keep(gpt2, tokens(130)).save(tmp_path / "state")
    page = gpt2.kv_pool.cache.page_nbytes
    with pytest.raises(qkv.Error, match=r"3 pages.*kv_cache_bytes"):
        load(tiny("gpt2"), kv_cache_bytes=2 * page).load_state(tmp_path / "state")
    small = load(tiny("gpt2"), kv_cache_bytes=5 * page)
    with small.load_state(tmp_path / "state"):
        with pytest.raises(qkv.Error, match="do not fit beside those in use"):
            small.load_state(tmp_path / "state")
        assert small.kv_pool.pages_in_use == small.kv_pool.reserved == 3
    small.load_state(tmp_path / "state").release()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_between_instruction_sets(dtype: str, tiny, tmp_path: Path, isa: str) -> None:  # type: ignore[no-untyped-def]
    model = load(tiny("llama"), dtype=dtype, kv_dtype="bfloat16")
    ids, more = tokens(100), tokens(5, 1)
    keep(model, ids).save(tmp_path / "state")
    for other in _ext.available_isas():
        _ext.choose_isa(other)
        reader = load(tiny("llama"), dtype=dtype, kv_dtype="bfloat16")
        with reader.load_state(tmp_path / "state") as state:
            expected = reader.logits([ids + more])[0][-1]
            assert np.abs(go_on(reader, state, more) - expected).max() < 0.05 * np.abs(expected).max()


def test_a_source_is_not_kept(tiny) -> None:  # type: ignore[no-untyped-def]
    model = load(tiny("t5"))
    source = model.read_source([np.array([3, 4], np.int32)])
    reservation = model.kv_pool.reserve(1)
    assert reservation
    with pytest.raises(qkv.Error, match="encoder"):
        State.of(model, CachedSequence(model.kv_pool, [0], 5, source), reservation)
