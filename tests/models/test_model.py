"""The model object: arguments, limits, bad input, what it prints."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import qkv


def edited(folder, tmp_path, **changes):
    """A copy of a checkpoint with another config; None removes a key."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return copy


def test_empty_batches_and_sequences(tiny_bert, tiny_gpt2) -> None:
    bert, gpt2 = qkv.load(tiny_bert), qkv.load(tiny_gpt2)
    assert bert.hidden_states([]) == [] == gpt2.logits([])
    shapes = [a.shape for a in bert.hidden_states([[], [1, 2], []])]
    assert shapes == [(0, 40), (2, 40), (0, 40)]
    assert gpt2.logits([[]])[0].shape == (0, 103)


@pytest.mark.parametrize(
    "ids", [[[101]], [[-1]], [[2**31]], [[0.5]], ["text"], "text", [[[1, 2]]], [[1, [2]]], [None], 3]
)
def test_bad_ids(ids, tiny_bert) -> None:
    with pytest.raises(qkv.Error, match=r"token|out of range"):
        qkv.load(tiny_bert).hidden_states(ids)


def test_bad_token_types(tiny_bert, tiny_gpt2) -> None:
    model = qkv.load(tiny_bert)
    with pytest.raises(qkv.Error, match=r"token type id 3 .* out of range"):
        model.hidden_states([[1, 2]], [[0, 3]])
    with pytest.raises(qkv.Error, match="as many and as long"):
        model.hidden_states([[1, 2]], [[0]])
    with pytest.raises(qkv.Error, match="no token types"):
        qkv.load(tiny_gpt2).hidden_states([[1, 2]], [[0, 0]])


@pytest.mark.parametrize("case", ["bert", "gpt2", "llama"])
def test_sequence_longer_than_the_model(case, tiny) -> None:
    model = qkv.load(tiny(case))
    most = model.context_length
    assert model.hidden_states([[1] * most])[0].shape[0] == most
    with pytest.raises(qkv.Error, match=f"{most + 1} tokens.*at most {most}"):
        model.hidden_states([[1], [1] * (most + 1)])


def test_outputs_that_a_model_lacks(tiny_bert) -> None:
    model = qkv.load(tiny_bert)
    with pytest.raises(qkv.Error, match="no output 'logits'; it has: embedding, hidden_states"):
        model.logits([[1]])
    with pytest.raises(qkv.Error, match="nothing to cache"):
        model.new_cache(10)


def test_unknown_architecture(tiny_bert, tmp_path) -> None:
    with pytest.raises(
        qkv.UnsupportedArchitecture, match=r"'mamba' is not supported; supported are: .*bert, .*gpt2, .*llama"
    ):
        qkv.load(edited(tiny_bert, tmp_path, model_type="mamba"))


@pytest.mark.parametrize("model_type", [None, 3, ["bert"], "../bert", "common"])
def test_model_type_is_not_trusted(model_type, tiny_bert, tmp_path) -> None:
    with pytest.raises(qkv.UnsupportedArchitecture, match="not supported"):
        qkv.load(edited(tiny_bert, tmp_path, model_type=model_type))


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("bert", {"hidden_size": 0}, "hidden_size is 0"),
        ("bert", {"hidden_size": 2**40}, "hidden_size"),
        ("bert", {"hidden_size": 41}, "not divisible"),
        (
            "bert",
            {"vocab_size": 102},
            r"word_embeddings.weight.*expected shape \[102, 40\].*found \[101, 40\]",
        ),
        ("bert", {"num_hidden_layers": 3}, "no tensor 'encoder.layer.2"),
        ("bert", {"num_hidden_layers": 2**24}, "no tensor 'encoder.layer.2"),
        ("bert", {"position_embedding_type": "relative_key"}, "relative_key"),
        ("bert", {"hidden_act": "mish"}, "'mish' is not supported; supported are: relu"),
        ("bert", {"intermediate_size": None}, "intermediate_size"),
        ("gpt2", {"n_head": 5}, "not divisible"),
        ("llama", {"num_key_value_heads": 4}, "not divisible"),
        ("llama", {"head_dim": 7}, "must be an even number"),
        ("llama", {"rope_parameters": {"rope_theta": "big"}}, "rope_theta"),
        ("llama", {"tie_word_embeddings": False, "vocab_size": 5}, "expected shape"),
    ],
)
def test_configs_that_do_not_fit(case, changes, message, tiny, tmp_path) -> None:
    with pytest.raises(qkv.Error, match=message):
        qkv.load(edited(tiny(case), tmp_path, **changes))


def test_nan_in_weights_propagates(tiny_gpt2, tmp_path) -> None:
    copy = edited(tiny_gpt2, tmp_path)
    tensors = load_file(copy / "model.safetensors")
    tensors["transformer.h.1.mlp.c_fc.weight"] = np.full_like(tensors["transformer.h.1.mlp.c_fc.weight"], np.nan)
    save_file(tensors, copy / "model.safetensors")
    assert np.isnan(qkv.load(copy).logits([[1, 2, 3]])[0]).all()


@pytest.mark.parametrize("case", ["gpt2", "llama"])
def test_nan_does_not_reach_earlier_tokens(case, tiny, tmp_path) -> None:
    copy = edited(tiny(case), tmp_path)
    tensors = load_file(copy / "model.safetensors")
    table = next(name for name in tensors if "wte" in name or "embed_tokens" in name)
    tensors[table][9, 0] = np.nan
    save_file(tensors, copy / "model.safetensors")
    model = qkv.load(copy)
    before, after = model.hidden_states([[1, 2, 3, 4], [1, 2, 3, 4, 9, 5]])
    assert np.isfinite(before).all()
    assert after[:4].tobytes() == before.tobytes()
    assert np.isnan(after[4:]).all()


@pytest.mark.parametrize(
    "arguments",
    [{"dtype": "int3"}, {"kv_dtype": "int3"}, {"num_threads": 0}, {"num_threads": 1.5}, {"num_threads": True}],
)
def test_bad_load_arguments(arguments, tiny_bert) -> None:
    with pytest.raises(qkv.Error, match=r"load: (dtype|kv_dtype|num_threads)"):
        qkv.load(tiny_bert, **arguments)


def test_program_prints_its_steps(tiny_llama) -> None:
    steps = str(qkv.load(tiny_llama).program).splitlines()
    assert [s.split(" = ")[1].split("(")[0] for s in steps[:9]] == [
        "embed", "rms_norm", "linear", "rotary", "attention", "linear", "rms_norm", "linear", "linear",
    ]  # fmt: skip
    assert "silu, gated" in steps[7]  # gate, up and their product in one step
    assert steps[2].startswith("%2 = linear(%1, float32[80, 48])")  # q, k and v in one
    assert " + %" in steps[5]  # the residual in the projection's step
    assert steps[-2].endswith("-> logits")


@pytest.mark.parametrize("case", ["bert", "t5", "falcon"])
def test_how_a_model_prints(case: str, tiny) -> None:
    model = qkv.load(tiny(case), dtype="int8")
    assert model.model_type == case
    assert repr(model) == f"<qkv.Model {case} int8 {model.nbytes / 1e6:.1f} MB>"


def test_profile_is_printed(tiny_bert) -> None:
    code = f"import qkv; qkv.load({str(tiny_bert)!r}).hidden_states([[1, 2, 3]])"
    environment = os.environ | {"QKV_PROFILE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    for word in ("linear", "attention", "norm", "share", "GFLOP/s", "GB/s"):
        assert word in done.stderr


def test_runs_after_fork(tiny_bert) -> None:
    """OpenMP's threads do not survive a fork; the child must work all the same, and not hang."""
    code = f"""
import os, qkv
model = qkv.load({str(tiny_bert)!r}, num_threads=2)
before = model.hidden_states([[1] * 150] * 8)[0].tobytes()
child = os.fork()
if child == 0:
    os._exit(0 if model.hidden_states([[1] * 150] * 8)[0].tobytes() == before else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
