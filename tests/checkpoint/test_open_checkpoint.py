"""Sound checkpoints: the values, and that nothing is copied. Unsound folders: which message."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qkv.checkpoint import Checkpoint
from qkv.errors import CheckpointError

INDEX = "model.safetensors.index.json"


def assert_equals_torch(array: np.ndarray, expected: torch.Tensor) -> None:
    if expected.dtype == torch.bfloat16:
        assert array.dtype == np.uint16
        expected = expected.view(torch.uint16)
    assert array.shape == tuple(expected.shape)
    assert array.dtype == expected.numpy().dtype
    np.testing.assert_array_equal(array, expected.numpy())


@pytest.mark.parametrize("layout", ["single", "sharded"])
def test_reads_what_torch_saved(layout: str, tensors: dict[str, torch.Tensor], request: pytest.FixtureRequest) -> None:
    with Checkpoint.open(request.getfixturevalue(layout)) as checkpoint:
        assert set(checkpoint.tensors) == set(tensors)
        assert checkpoint.names == sorted(tensors)
        for name, expected in tensors.items():
            info = checkpoint.tensors[name]
            assert info.name == name
            assert info.dtype == str(expected.dtype).removeprefix("torch.")
            assert info.shape == tuple(expected.shape)
            assert info.nbytes == expected.nbytes
            assert_equals_torch(checkpoint.read(name), expected)


def test_open_takes_a_string_and_shows_the_config(single: Path) -> None:
    with Checkpoint.open(str(single)) as checkpoint:
        assert checkpoint.path == single
        assert checkpoint.config == {"model_type": "bert", "hidden_size": 8}
        assert isinstance(checkpoint.tensors, MappingProxyType)


def test_any_single_safetensors_file_will_do(single: Path, tensors: dict[str, torch.Tensor]) -> None:
    (single / "model.safetensors").rename(single / "weights.safetensors")
    with Checkpoint.open(single) as checkpoint:
        assert set(checkpoint.tensors) == set(tensors)


def test_read_is_a_read_only_view_of_the_file(single: Path) -> None:
    with Checkpoint.open(single) as checkpoint:
        first, second = "bert.encoder.layer.0.query.weight", "bert.encoder.layer.10.query.weight"
        a, b = checkpoint.read(first), checkpoint.read(second)
        assert not a.flags.writeable
        assert not a.flags.owndata
        assert np.shares_memory(a, checkpoint.read(first))
        distance = checkpoint.tensors[second].offset - checkpoint.tensors[first].offset
        assert b.ctypes.data - a.ctypes.data == distance
        content = (single / "model.safetensors").read_bytes()
        info = checkpoint.tensors[first]
        assert a.tobytes() == content[info.offset : info.offset + info.nbytes]


def test_unaligned_tensors_are_copied_to_an_aligned_array(folder: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * (-len(header) % 8 + 1)
    data = np.array([1.5, -2.5], np.float32)
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data.tobytes())
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.tensors["a"].offset % 4 == 1
        array = checkpoint.read("a")
        assert array.flags.aligned
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, data)


def resident_kib(path: Path) -> int:
    """Memory of this process that maps `path`, from Linux's /proc/self/smaps."""
    regions = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.M)
    return sum(int(re.findall(r"^Rss:\s+(\d+)", r, re.M)[0]) for r in regions if str(path) in r)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")
def test_release_gives_memory_back_and_the_values_stay(folder: Path) -> None:
    tensors = {"a": torch.randn(1024, 1024), "b": torch.randn(1024, 1024)}
    save_file(tensors, folder / "model.safetensors")
    with Checkpoint.open(folder) as checkpoint:
        a = checkpoint.read("a")
        before = a.sum()
        checkpoint.read("b").sum()
        assert resident_kib(folder / "model.safetensors") >= 8000
        checkpoint.release("a")
        assert 4000 <= resident_kib(folder / "model.safetensors") <= 4500
        assert a.sum() == before
        np.testing.assert_array_equal(checkpoint.read("b"), tensors["b"].numpy())


def test_arrays_outlive_the_checkpoint(single: Path, tensors: dict[str, torch.Tensor]) -> None:
    name = "bert.embeddings.weight"
    checkpoint = Checkpoint.open(single)
    array = checkpoint.read(name)
    checkpoint.close()
    checkpoint.close()
    assert_equals_torch(array, tensors[name])
    with pytest.raises(CheckpointError, match=r"closed.*bert\.embeddings\.weight"):
        checkpoint.read(name)
    with pytest.raises(CheckpointError, match="closed"):
        checkpoint.release(name)


def test_unknown_tensor(single: Path) -> None:
    with Checkpoint.open(single) as checkpoint, pytest.raises(CheckpointError, match="no tensor 'nothing'"):
        checkpoint.read("nothing")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), "I64.*expected float32, float16, bfloat16"),
        (torch.zeros(3, dtype=torch.float64), "F64"),
        (torch.zeros(0, 4), r"shape \[0, 4\].*at least one element"),
        (torch.zeros((1,) * 33), "at most 32 dimensions"),
    ],
)
def test_tensors_that_cannot_be_read_only_fail_when_read(folder: Path, tensor: torch.Tensor, message: str) -> None:
    save_file({"odd": tensor, "good": torch.ones(2)}, folder / "model.safetensors")
    with Checkpoint.open(folder) as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("good"), [1, 1])
        with pytest.raises(CheckpointError, match=message) as caught:
            checkpoint.read("odd")
        assert "'odd'" in str(caught.value)
        assert "model.safetensors" in str(caught.value)


def test_optional_json(single: Path) -> None:
    (single / "generation_config.json").write_text('\ufeff{"eos_token_id": [1, 2]}', encoding="utf-8")
    (single / "list.json").write_text("[]")
    (single / "broken.json").write_text('{"a": ')
    (single / "deep.json").write_text("[" * 100_000)
    (single / "latin.json").write_bytes(b'{"a": "\xe9"}')
    with Checkpoint.open(single) as checkpoint:
        assert checkpoint.json("generation_config.json") == {"eos_token_id": [1, 2]}
        assert checkpoint.json("absent.json") is None
        for name, message in {
            "list.json": "holds a list",
            "broken.json": "not valid JSON",
            "deep.json": "not valid JSON",
            "latin.json": "not valid JSON",
            "../other.json": "not the name of a file inside",
        }.items():
            with pytest.raises(CheckpointError, match=message) as caught:
                checkpoint.json(name)
            assert name in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere is not a folder"):
        Checkpoint.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no config.json"),
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[1]", "holds a list at its top level; expected an object"),
        ('"bert"', "holds a string"),
        ("1" * 5000, "not valid JSON"),
    ],
)
def test_bad_config_file(single: Path, content: str | None, message: str) -> None:
    (single / "config.json").unlink()
    if content is not None:
        (single / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=rf"{message}") as caught:
        Checkpoint.open(single)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_quantised_checkpoints_are_refused(single: Path, key: str) -> None:
    config = single / "config.json"
    config.write_text(json.dumps({key: {"quant_method": "gptq", "bits": 4}}))
    with pytest.raises(CheckpointError, match=f"quantised weights are not supported.*{key}.*gptq"):
        Checkpoint.open(single)
    config.write_text(json.dumps({key: None}))
    Checkpoint.open(single).close()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "tf_model.h5", "flax_model.msgpack"])
def test_pickles_are_refused_with_a_way_out(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(CheckpointError, match="can run code") as caught:
        Checkpoint.open(folder)
    assert name in str(caught.value)
    assert "save_pretrained" in str(caught.value)


def test_no_weights_at_all(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weights: expected model\.safetensors or"):
        Checkpoint.open(folder)


def test_several_files_without_an_index(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    with pytest.raises(CheckpointError, match=r"several safetensors files \(model-00001.*nor " + INDEX):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("kind", ["folder", "pipe", "broken link", "link loop"])
def test_weights_that_are_no_file(folder: Path, kind: str) -> None:
    weights = folder / "model.safetensors"
    if kind == "folder":
        weights.mkdir()
    elif kind == "pipe":
        os.mkfifo(weights)
    else:
        weights.symlink_to("model.safetensors" if kind == "link loop" else "absent")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a folder, a broken link or a special"):
        Checkpoint.open(folder)
