"""Shards and links: only files of the checkpoint folder itself are opened."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qkv.checkpoint import Checkpoint
from qkv.errors import CheckpointError, Error

INDEX = "model.safetensors.index.json"


def rewrite_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    "entry",
    ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", "a\\b", "c:x", "a\0b"],
)
def test_index_entries_must_be_plain_names(sharded: Path, entry: str) -> None:
    save_file({"a": torch.ones(2)}, sharded.parent / "secret.safetensors")
    rewrite_index(sharded, {"a": entry})
    with pytest.raises(CheckpointError, match=r"is not a plain file name|is not the name of a file") as caught:
        Checkpoint.open(sharded)
    assert INDEX in str(caught.value)
    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize("entry", ["absent.safetensors", "x" * 5000, "\ud800"])
def test_missing_shard(sharded: Path, entry: str) -> None:
    rewrite_index(sharded, {"a": entry})
    with pytest.raises(CheckpointError, match="which is missing") as caught:
        Checkpoint.open(sharded)
    assert INDEX in str(caught.value)
    assert repr(entry) in str(caught.value)


def test_tensor_that_its_shard_lacks(sharded: Path) -> None:
    rewrite_index(sharded, {"ghost": "model-00001-of-00002.safetensors"})
    with pytest.raises(CheckpointError, match=r"'ghost' in model-00001-of-00002\.safetensors, which lacks it"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("weight_map", [None, [], "x", {"a": 1}, {"a": None}, {"a": ["b"]}])
def test_index_of_the_wrong_form(sharded: Path, weight_map: object) -> None:
    rewrite_index(sharded, weight_map)
    with pytest.raises(CheckpointError, match="expected a weight_map from tensor names to file names"):
        Checkpoint.open(sharded)


def test_only_tensors_in_the_index_count(sharded: Path, tensors: dict[str, torch.Tensor]) -> None:
    name = "classifier.scale"
    rewrite_index(sharded, {name: "model-00002-of-00002.safetensors"})
    with Checkpoint.open(sharded) as checkpoint:
        assert list(checkpoint.tensors) == [name]


def test_links_out_of_the_folder_are_refused(single: Path) -> None:
    weights, outside = single / "model.safetensors", single.parent / "outside.safetensors"
    weights.rename(outside)
    weights.symlink_to(outside)
    with pytest.raises(CheckpointError, match="outside the checkpoint folder") as caught:
        Checkpoint.open(single)
    assert isinstance(caught.value, Error)
    assert "outside.safetensors" in str(caught.value)


def test_shard_links_out_of_the_folder_name_the_index(sharded: Path) -> None:
    shard = sharded / "model-00002-of-00002.safetensors"
    shard.rename(sharded.parent / "elsewhere")
    shard.symlink_to("../elsewhere")
    with pytest.raises(CheckpointError, match=r"index\.json: the entry 'model-00002.*is a link to .*elsewhere"):
        Checkpoint.open(sharded)


def test_links_inside_the_folder_are_fine(single: Path) -> None:
    (single / "model.safetensors").rename(single / "real")
    (single / "model.safetensors").symlink_to("real")
    (single.parent / "alias").symlink_to(single)
    with Checkpoint.open(single.parent / "alias") as checkpoint:
        assert checkpoint.read("classifier.scale") == np.float32(1.5)
