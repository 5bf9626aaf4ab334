"""The warning about tensors that a model does not use, and which tensors are none of its business."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import qkv
from qkv.checkpoint import Checkpoint, Weights, unused_weights
from qkv.cli import main

Tensors = dict[str, np.ndarray]
IDS = [np.arange(1, 9)]


@pytest.fixture
def altered(tiny, tmp_path: Path) -> Callable[..., Path]:  # type: ignore[no-untyped-def]
    """altered(case, more_tensors, **config) -> a copy of the case's checkpoint with these."""

    def copy(case: str, more: Tensors, **config: object) -> Path:
        folder = tmp_path / "altered"
        shutil.copytree(tiny(case), folder)
        weights = folder / "model.safetensors"
        save_file({**load_file(weights), **more}, weights)
        old = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**old, **config}))
        return folder

    return copy


def rows(*shape: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("case", ["bert", "gpt2", "gpt2-base", "gpt2-untied", "llama", "llama-mha"])
def test_as_transformers_saves_it_nothing_is_left_over(tiny, case: str) -> None:  # type: ignore[no-untyped-def]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        qkv.load(tiny(case))


def test_one_warning_names_eight_and_counts_all(altered: Callable[..., Path]) -> None:
    more = {f"extra.{letter}.weight": rows(3) for letter in "abcdefghij"}
    folder = altered("llama", more)
    with pytest.warns(qkv.UnusedWeights) as caught:
        qkv.load(folder)
    assert len(caught) == 1
    message = str(caught[0].message)
    total = len(load_file(folder / "model.safetensors"))
    assert f"{folder}: 10 of {total} tensors are not used: extra.a.weight, extra.b.weight" in message
    assert "extra.h.weight, ..." in message
    assert "extra.i" not in message
    assert caught[0].filename == __file__


def test_layers_that_the_config_does_not_count(altered: Callable[..., Path]) -> None:
    folder = altered("gpt2", {}, n_layer=2)
    with pytest.warns(qkv.UnusedWeights, match=r"12 of .*transformer\.h\.2\.attn\.c_attn\.bias") as caught:
        qkv.load(folder)
    assert "h.1." not in str(caught[0].message)


BUFFERS: dict[str, tuple[str, Tensors]] = {
    "bert": (
        "bert",
        {
            "embeddings.position_ids": np.arange(200)[None],
            "embeddings.token_type_ids": np.zeros((1, 200), np.int64),
            "pooler.dense.weight": rows(40, 40),
            "pooler.dense.bias": rows(40),
            "cls.seq_relationship.weight": rows(2, 40),
        },
    ),
    "gpt2": (
        "gpt2",
        {
            "transformer.h.0.attn.bias": np.tri(40, dtype=np.uint8)[None, None],
            "transformer.h.0.attn.masked_bias": np.array(-1e4, np.float32),
            "transformer.h.1.attn.attention.bias": np.tri(40, dtype=np.float32)[None, None],
            "transformer.h.1.attention.masked_bias": np.array(-1e9, np.float32),
            "bn.num_batches_tracked": np.array(3),
        },
    ),
    "llama": (
        "llama",
        {
            "model.layers.0.self_attn.rotary_emb.inv_freq": rows(4),
            "model.rotary_emb.inv_freq": rows(4),
        },
    ),
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_are_no_weights(altered: Callable[..., Path], tiny, name: str) -> None:  # type: ignore[no-untyped-def]
    case, more = BUFFERS[name]
    model = qkv.load(altered(case, more))
    expected = qkv.load(tiny(case)).hidden_states(IDS)[0]
    np.testing.assert_array_equal(model.hidden_states(IDS)[0], expected)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("transformer.h.0.attn.bias", rows(48)),
        ("transformer.h.0.attn.bias", rows(1, 1, 4, 5)),
        ("transformer.h.0.attn.other_bias", np.tri(4, dtype=np.float32)[None, None]),
        ("transformer.inv_freq", rows(4)),
    ],
)
def test_what_only_looks_like_a_buffer(altered: Callable[..., Path], name: str, values: np.ndarray) -> None:
    with pytest.warns(qkv.UnusedWeights, match=f"1 of .*: {name}"):
        qkv.load(altered("gpt2", {name: values}))


def test_a_copy_of_a_tied_matrix(altered: Callable[..., Path], tiny) -> None:  # type: ignore[no-untyped-def]
    table = load_file(tiny("gpt2") / "model.safetensors")["transformer.wte.weight"]
    qkv.load(altered("gpt2", {"lm_head.weight": table}, tie_word_embeddings=None))


@pytest.mark.parametrize("tied", [True, None])
def test_another_matrix_than_the_tied_one(tied: bool | None, altered: Callable[..., Path]) -> None:
    """The config says, or by default, that the embeddings are the output layer; the file holds another one."""
    with pytest.warns(qkv.UnusedWeights, match=r"1 of .*: lm_head\.weight"):
        qkv.load(altered("gpt2", {"lm_head.weight": rows(103, 48)}, tie_word_embeddings=tied))


@pytest.mark.parametrize(
    ("used", "other"),
    [
        ("cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("lm_head.decoder.bias", "lm_head.bias"),
        ("model.decoder.embed_tokens.weight", "model.shared.weight"),
    ],
)
def test_what_an_untied_layer_replaces(folder: Path, used: str, other: str) -> None:
    save_file({used: rows(5), other: rows(5, seed=8), "x.bias": rows(5)}, folder / "model.safetensors")
    with Checkpoint.open(folder) as checkpoint:
        assert unused_weights(checkpoint) == sorted((used, other, "x.bias"))
        Weights(checkpoint).param(used, (5,))
        assert unused_weights(checkpoint) == ["x.bias"]


def test_packing_warns_and_the_packed_file_does_not(altered: Callable[..., Path], tmp_path: Path) -> None:
    folder, file = altered("llama", {"extra.weight": rows(3)}), tmp_path / "model.qkv"
    with pytest.warns(qkv.UnusedWeights, match="extra") as caught:
        qkv.pack(folder, file)
    assert caught[0].filename == __file__
    qkv.load(file)


def test_the_command_line_says_it_in_a_line(
    altered: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = altered("llama", {"extra.weight": rows(3)})
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["pack", str(folder), "-o", str(tmp_path / "model.qkv")]) == 0
    error = capsys.readouterr().err
    assert error.startswith(f"warning: {folder}: 1 of ")
    assert error.count("\n") == 1
