"""Files of saved states: whole or not there; refused when damaged, hostile or of another model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tests.generation.caching import keep, load, poison, tokens

import qkv
from qkv import _ext


@pytest.fixture(scope="module")
def gpt2(tiny) -> qkv.Model:  # type: ignore[no-untyped-def]
    return load(tiny("gpt2"))


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

    sibling = tmp_path / "sibling"
    sibling.mkdir()
    (sibling / "config.json").write_bytes((tiny("gpt2") / "config.json").read_bytes())
    weights = load_file(tiny("gpt2") / "model.safetensors")
    name = next(name for name in weights if name.endswith("h.0.attn.c_attn.weight"))
    weights[name] = weights[name] + 0.02 * np.random.default_rng(0).standard_normal(weights[name].shape, np.float32)
    save_file(weights, sibling / "model.safetensors", {"format": "pt"})
    with pytest.raises(qkv.CheckpointError, match="weights or configuration differ"):
        load(sibling).load_state(path)


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
