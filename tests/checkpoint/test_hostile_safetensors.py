"""Safetensors files that are wrong, by hand and by chance: a clear error, never a crash."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from qkv.checkpoint import Checkpoint
from qkv.errors import CheckpointError, Error


def encode(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file from its parts; `length` lies about the header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tensor(begin: int, end: int, shape: list[Any] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [2] if shape is None else shape, "data_offsets": [begin, end]}


def read_all(folder: Path) -> dict[str, np.ndarray]:
    with Checkpoint.open(folder) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.tensors}


HOSTILE = {
    "no bytes": b"",
    "fewer than 8 bytes": b"\x08\0\0",
    "no header": encode(b""),
    "header beyond the file": encode({"a": tensor(0, 8)}, bytes(8), length=10_000),
    "header of 2**63 bytes": encode({}, length=2**63),
    "header of 2**64 - 1 bytes": encode({}, length=2**64 - 1),
    "header is no JSON": encode(b"!!!!!!!!"),
    "header is no UTF-8": encode(b'{"\xff": 1}'),
    "header is a list": encode([]),
    "header is too deep": encode(b'{"a":' + b"[" * 50_000),
    "entry is a number": encode({"a": 1}),
    "entry lacks offsets": encode({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "unknown dtype": encode({"a": tensor(0, 8, dtype="F31")}, bytes(8)),
    "data cut short": encode({"a": tensor(0, 8)}, bytes(7)),
    "data too long": encode({"a": tensor(0, 8)}, bytes(9)),
    "overlap": encode({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)),
    "same bytes twice": encode({"a": tensor(0, 8), "b": tensor(0, 8)}, bytes(8)),
    "hole": encode({"a": tensor(0, 8), "b": tensor(12, 20)}, bytes(20)),
    "out of range": encode({"a": tensor(64, 72)}, bytes(8)),
    "end before begin": encode({"a": tensor(8, 0)}, bytes(8)),
    "negative offset": encode({"a": tensor(-8, 0)}, bytes(8)),
    "offset wraps around": encode({"a": tensor(2**64 - 4, 4)}, bytes(8)),
    "offset beyond 64 bits": encode({"a": tensor(0, 2**64 + 8)}, bytes(8)),
    "fractional offset": encode(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8.0]}}', bytes(8)),
    "negative shape": encode({"a": tensor(0, 8, [-2])}, bytes(8)),
    "shape larger than data": encode({"a": tensor(0, 8, [3])}, bytes(8)),
    "shape smaller than data": encode({"a": tensor(0, 8, [1])}, bytes(8)),
    "dtype of another size": encode({"a": tensor(0, 8, dtype="F16")}, bytes(8)),
    "shape overflows": encode({"a": tensor(0, 8, [2**62, 8])}, bytes(8)),
    "shape overflows to the right size": encode({"a": tensor(0, 0, [2**63, 2])}),
    "named twice": encode(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        bytes(8),
    ),
    "number of 5000 digits": encode(
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":' + b"1" * 5000 + b"}}", bytes(8)
    ),
    "pickle": b"cos\nsystem\n(S'false'\ntR." * 4,
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_file_does_not_open(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a sound safetensors file"):
        Checkpoint.open(folder)


def test_the_same_file_without_a_lie_opens(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(encode({"a": tensor(0, 8)}, bytes(8)))
    np.testing.assert_array_equal(read_all(folder)["a"], np.zeros(2, np.float32))


def test_a_huge_empty_shape_opens_but_is_not_read(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(encode({"a": tensor(0, 0, [0, 2**63])}))
    with pytest.raises(CheckpointError, match="'a' has shape"):
        read_all(folder)


def test_a_hostile_shard_names_the_shard(sharded: Path) -> None:
    shard = sharded / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors is not a sound"):
        Checkpoint.open(sharded)


VALID = save(
    {
        "layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "layer.bias": np.ones(3, np.float16),
        "position_ids": np.arange(2),
        "empty": np.zeros((0, 2), np.float32),
    },
    metadata={"format": "pt"},
)

T = TypeVar("T")
A = TypeVar("A")


def outcome(function: Callable[[A], T], argument: A) -> T | Error:
    try:
        return function(argument)
    except Error as error:
        return error


edits = st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=4)


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(edits=[], end=len(VALID))
@given(edits=edits, end=st.integers(0, len(VALID)) | st.just(len(VALID)))
def test_damaged_file_opens_or_raises_our_error(folder: Path, edits: list[tuple[int, int]], end: int) -> None:
    content = bytearray(VALID)
    for position, byte in edits:
        content[position] = byte
    (folder / "model.safetensors").write_bytes(content[:end])
    checkpoint = outcome(Checkpoint.open, folder)
    if isinstance(checkpoint, Error):
        assert edits or end < len(VALID)
        assert "model.safetensors" in str(checkpoint)
        return
    with checkpoint:
        for name, info in checkpoint.tensors.items():
            array = outcome(checkpoint.read, name)
            if isinstance(array, Error):
                assert repr(name) in str(array)
            else:
                assert array.shape == info.shape
                array.tobytes()  # touches every byte
