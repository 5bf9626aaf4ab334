"""Weights and Param: names, shapes and types."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qkv.checkpoint import Checkpoint, Param, Weights
from qkv.errors import CheckpointError


@pytest.fixture
def weights(single: Path) -> Weights:
    return Weights(Checkpoint.open(single))


def test_params_read_their_tensor(weights: Weights, tensors: dict[str, torch.Tensor]) -> None:
    layer = weights.under("bert.", "")["encoder.layer.0"]
    param = layer["query"].param("weight", shape=(8, 8))
    assert param == Param(weights.checkpoint, "bert.encoder.layer.0.query.weight", (8, 8), "bfloat16")
    expected = tensors[param.name].view(torch.uint16).numpy()
    np.testing.assert_array_equal(param.read(), expected)
    param.release()
    np.testing.assert_array_equal(param.read(), expected)


def test_params_are_keys(weights: Weights) -> None:
    one = weights["classifier"].param("scale", ())
    two = weights.param("classifier.scale", ())
    assert len({one, two, weights.param("bert.embeddings.weight", (7, 8))}) == 2


def test_scopes_join_names(weights: Weights) -> None:
    assert weights["bert"]["encoder.layer"]["0"] == weights["bert.encoder.layer.0"]
    assert weights[""] == weights
    assert weights["bert"][""] == weights["bert"]


def test_membership_goes_by_whole_names(weights: Weights) -> None:
    assert "bert" in weights
    assert "bert.encoder.layer.1" in weights
    assert "layer.1.query.weight" in weights["bert.encoder"]
    assert "" in weights
    assert "ber" not in weights
    assert "bert.encoder.layer.0.query.w" not in weights
    assert "encoder" not in weights
    assert "lm_head" not in weights
    assert "zzz" not in weights


@pytest.mark.parametrize("name", ["bert.encoder.layer.2", "bert.encoder.layer.100"])
def test_layer_numbers_are_not_prefixes(weights: Weights, name: str) -> None:
    assert name not in weights


def test_layers(weights: Weights) -> None:
    layers = list(weights["bert"].layers("encoder.layer", 2))
    assert [layer.prefix for layer in layers] == ["bert.encoder.layer.0", "bert.encoder.layer.1"]


def test_under_takes_the_first_prefix_that_holds_tensors(weights: Weights) -> None:
    assert weights.under("model.", "bert.", "").prefix == "bert"
    assert weights.under("model", "", "bert").prefix == ""
    assert weights["bert"].under("x", "encoder").prefix == "bert.encoder"
    with pytest.raises(CheckpointError, match=r"no tensor under 'model\.' or 'lm'.*bert\.embeddings\.weight"):
        weights.under("model.", "lm")


def test_under_an_empty_checkpoint(folder: Path) -> None:
    save_file({}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="none at all"):
        Weights(Checkpoint.open(folder)).under("bert.", "")


def test_missing_tensor_names_the_nearest(weights: Weights) -> None:
    with pytest.raises(CheckpointError) as caught:
        weights["bert.encoder.layer.1.query"].param("bias", (8,))
    message = str(caught.value)
    assert "no tensor 'bert.encoder.layer.1.query.bias'" in message
    assert "bert.encoder.layer.0.query.bias" in message
    assert message.count("query") == 4


def test_missing_tensor_with_nothing_near(weights: Weights) -> None:
    with pytest.raises(CheckpointError, match=r"no tensor 'xyzzy'$"):
        weights.param("xyzzy", (8,))


@pytest.mark.parametrize("shape", [(8, 7), (7, 8, 1), (56,), ()])
def test_wrong_shape(weights: Weights, shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError) as caught:
        weights["bert.embeddings"].param("weight", shape)
    message = str(caught.value)
    assert "'bert.embeddings.weight'" in message
    assert f"expected shape {list(shape)} from config.json, found [7, 8] in " in message
    assert message.endswith("model.safetensors")


@pytest.mark.parametrize(
    ("dtype", "tag", "quantised"),
    [
        (torch.int8, "I8", True),
        (torch.uint8, "U8", True),
        (torch.int32, "I32", True),
        (torch.float64, "F64", False),
    ],
)
def test_wrong_dtype(folder: Path, dtype: torch.dtype, tag: str, quantised: bool) -> None:
    save_file({"a.weight": torch.zeros(2, 2).to(dtype)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"'a.weight' has type {tag}; expected float32, ") as caught:
        Weights(Checkpoint.open(folder))["a"].param("weight", (2, 2))
    assert ("GPTQ" in str(caught.value)) == quantised
