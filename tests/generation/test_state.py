"""Conversations kept in memory and in files: continued with the same bits, or refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.generation.caching import feed, poison, sequence, tokens

import qkv
from qkv import _ext
from qkv.generation.state import State

MB = 1 << 20
CASES = ("gpt2", "llama-dynamic", "mistral", "gemma2")
KV_DTYPES = ("float32", "bfloat16", "int8")


def load(folder: Path, **options: Any) -> qkv.Model:
    return qkv.load(folder, **{"num_threads": 1, "kv_cache_bytes": 2 * MB} | options)


@pytest.fixture(scope="module")
def gpt2(tiny) -> qkv.Model:  # type: ignore[no-untyped-def]
    return load(tiny("gpt2"))


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


def test_files_appear_whole(gpt2: qkv.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = keep(gpt2, tokens(70))
    with pytest.raises(qkv.Error, match="could not be written"):
        state.save(tmp_path / "no folder" / "state")
    (tmp_path / "state").write_text("older")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(qkv.Error, match="No space left"):
        state.save(tmp_path / "state")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["older"]
    monkeypatch.undo()
    state.save(tmp_path / "state")
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_nothing_of_others_is_in_the_file(gpt2: qkv.Model, tmp_path: Path) -> None:
    """Two files of one text are the same, whatever stood in its pages before."""
    files = []
    for _ in range(2):
        gpt2.kv_pool.clear()
        poison(gpt2.kv_pool) if files else None
        state = keep(gpt2, tokens(70))
        state.save(tmp_path / "state")
        state.release()
        files.append((tmp_path / "state").read_bytes())
    assert files[0] == files[1]


def test_not_a_state(gpt2: qkv.Model, tiny, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for path, message in (
        (tmp_path, "not a regular file"),
        (tmp_path / "none", "not a regular file"),
        (tiny("gpt2") / "config.json", "no saved state"),
        (tiny("gpt2") / "model.safetensors", "not one that `State.save` wrote"),
    ):
        with pytest.raises(qkv.CheckpointError, match=message):
            gpt2.load_state(path)


def test_damage(gpt2: qkv.Model, tmp_path: Path) -> None:
    path = tmp_path / "state"
    keep(gpt2, tokens(70)).save(path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    for end in (0, 4, 8, 100, header, header + 100, len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(qkv.CheckpointError, match="state"):
            gpt2.load_state(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(qkv.CheckpointError, match="state"):
        gpt2.load_state(path)
    for at in [0, 7, 8, 9, *rng.integers(10, len(whole), 60), len(whole) - 8, len(whole) - 1]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(qkv.CheckpointError, match="state"):
            gpt2.load_state(path)
    path.write_bytes(whole)
    gpt2.load_state(path).release()


def test_another_model(gpt2: qkv.Model, tiny, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "state"
    keep(gpt2, tokens(70)).save(path)
    with pytest.raises(
        qkv.CheckpointError, match=r"another model: model_type is 'gpt2' there and 'llama' here, .*head"
    ):
        load(tiny("llama")).load_state(path)
    with pytest.raises(qkv.CheckpointError, match=r"another model: kv_dtype is 'float32' there and 'int8' here$"):
        load(tiny("gpt2"), kv_dtype="int8").load_state(path)
    with pytest.raises(qkv.CheckpointError, match=r"dtype is 'float32' there and 'int8' here"):
        load(tiny("gpt2"), dtype="int8", kv_dtype="float32").load_state(path)
    load(tiny("gpt2"), num_threads=2).load_state(path).release()

    from safetensors.numpy import load_file

    sibling = tmp_path / "sibling"
    sibling.mkdir()
    (sibling / "config.json").write_bytes((tiny("gpt2") / "config.json").read_bytes())
    weights = load_file(tiny("gpt2") / "model.safetensors")
    name = next(name for name in weights if name.endswith("h.0.attn.c_attn.weight"))
    weights[name] = weights[name] + 0.02 * np.random.default_rng(0).standard_normal(weights[name].shape, np.float32)
    save_file(weights, sibling / "model.safetensors", {"format": "pt"})
    with pytest.raises(qkv.CheckpointError, match="weights or configuration differ"):
        load(sibling).load_state(path)


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


def altered(path: Path, change: Callable[[dict[str, Any]], object], ids: dict[int, int] | None = None) -> None:
    """Change the notes of a file, and its ids, and give it a checksum that fits."""
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    table = json.loads(whole[8 : 8 + size])
    notes = json.loads(table["__metadata__"]["qkv state"])
    change(notes)
    table["__metadata__"]["qkv state"] = json.dumps(notes)
    text = json.dumps(table).encode()
    data = bytearray(whole[8 + size : -8])
    for at, token in (ids or {}).items():
        data[4 * at : 4 * at + 4] = token.to_bytes(4, "little", signed=True)
    content = len(text).to_bytes(8, "little") + text + data
    path.write_bytes(content + _ext.checksum(np.frombuffer(content, np.uint8), 1).to_bytes(8, "little"))


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ({"format_version": 2}, "version 2 of saved states; this qkv reads version 1"),
        ({"past": 70}, "must not decrease"),
        ({"past": 10**6, "tokens": 10**6, "planned": 10**6}, "entries"),
        ({"past": 63}, "entries"),
        ({"planned": 68}, "must not decrease"),
        ({"tokens": 70, "planned": 69}, "must not decrease"),
        ({"tokens": 71}, "entries"),
        ({"absent": 1}, "1 pages are absent; expected at most 0"),
        ({"absent": -1}, "absent is -1"),
        ({"past": None}, "past is null"),
        ({"past": "69"}, "past is '69'"),
        ({"model": []}, "model is"),
        ({"model": {}}, "model_type is None there"),
        ({"isa": 3}, "isa is 3"),
    ],
)
def test_hostile_notes(notes: dict[str, Any], message: str, gpt2: qkv.Model, tmp_path: Path) -> None:
    path = tmp_path / "state"
    keep(gpt2, tokens(69)).save(path)
    altered(path, lambda found: found)
    gpt2.load_state(path).release()
    altered(path, lambda found: found.update(notes))
    with pytest.raises(qkv.CheckpointError, match=message):
        gpt2.load_state(path)


@pytest.mark.parametrize("token", [-1, 2**31 - 1, 107])
def test_hostile_ids(token: int, gpt2: qkv.Model, tmp_path: Path) -> None:
    path = tmp_path / "state"
    keep(gpt2, tokens(69)).save(path)
    altered(path, lambda found: found, {5: gpt2.vocab_size if token == 107 else token})
    with pytest.raises(qkv.CheckpointError, match="token id"):
        gpt2.load_state(path)


def test_a_source_is_not_kept(tiny) -> None:  # type: ignore[no-untyped-def]
    model = load(tiny("t5"))
    source = model.read_source([np.array([3, 4], np.int32)])
    from qkv.generation.sequence import CachedSequence

    reservation = model.kv_pool.reserve(1)
    assert reservation
    with pytest.raises(qkv.Error, match="encoder"):
        State.of(model, CachedSequence(model.kv_pool, [0], 5, source), reservation)
