"""What only mixtures of experts have: two ways of keeping experts in a checkpoint, and a choice to make."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.tiny import CASES

import qkv
from qkv import _ext

IDS = [[1, 2, 3, 4, 5], list(range(60, 0, -1))]


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """The checkpoint as transformers 5 has it in memory: all experts of a layer in two tensors."""
    folder = tmp_path_factory.mktemp("fused")
    CASES["mixtral"].make().save_pretrained(folder, save_original_format=False)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
def test_experts_in_one_tensor(dtype: str, tiny, fused, tmp_path) -> None:
    names = safetensors.torch.load_file(fused / "model.safetensors").keys()
    assert "model.layers.1.mlp.experts.gate_up_proj" in names
    one, two = qkv.load(tiny("mixtral"), dtype=dtype), qkv.load(fused, dtype=dtype)
    assert one.nbytes == two.nbytes
    expected = [rows.tobytes() for rows in one.logits(IDS)]
    assert [rows.tobytes() for rows in two.logits(IDS)] == expected
    seen = []
    qkv.pack(fused, tmp_path / "model.qkv", dtype=dtype, progress=lambda done, total: seen.append((done, total)))
    assert [rows.tobytes() for rows in qkv.load(tmp_path / "model.qkv").logits(IDS)] == expected
    assert seen[-1][0] == seen[-1][1]  # every byte counted once


def test_auto_looks_at_experts_in_one_tensor(fused, tmp_path) -> None:
    tensors = safetensors.torch.load_file(fused / "model.safetensors")
    shutil.copy(fused / "config.json", tmp_path)
    for stored, chosen in ((torch.bfloat16, "bfloat16"), (torch.float32, "float32")):
        kept = {n: t.to(stored if "gate_up" in n else torch.bfloat16) for n, t in tensors.items()}
        safetensors.torch.save_file(kept, tmp_path / "model.safetensors")
        assert qkv.load(tmp_path).dtype == chosen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts_per_tok": 6}, "num_experts_per_tok is 6 of 5 num_local_experts"),
        ({"num_experts": 6}, "num_experts 6 and num_local_experts 5 differ"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0"),
        ({"num_local_experts": 6}, r"gate.weight.*expected shape \[6, 48\].*found \[5, 48\]"),
        ({"intermediate_size": 43}, r"expected shape \[(5, 86|43), 48\]"),
    ],
)
def test_configs_that_do_not_fit(changes, message: str, tiny, fused, tmp_path) -> None:
    for i, folder in enumerate((tiny("mixtral"), fused)):
        copy = shutil.copytree(folder, tmp_path / str(i))
        config = json.loads((copy / "config.json").read_text()) | changes
        (copy / "config.json").write_text(json.dumps(config))
        with pytest.raises(qkv.Error, match=message):
            qkv.load(copy)


def test_a_router_is_never_rounded(tiny) -> None:
    text = str(qkv.load(tiny("mixtral"), dtype="int4").program)
    assert text.count("linear(%0, float32[5, 48])") == 2


def test_experts_share_the_work(tiny) -> None:
    """Every expert of the tiny model serves some tokens, so that the comparisons above mean something."""
    model = CASES["mixtral"].make()
    chosen: set[int] = set()
    hook = lambda _module, _inputs, output: chosen.update(output[2].flatten().tolist())  # noqa: E731
    for layer in model.model.layers:
        layer.mlp.gate.register_forward_hook(hook)
    with torch.no_grad():
        model(torch.tensor([np.arange(1, 60).tolist()]))
    assert chosen == set(range(5))


@pytest.mark.parametrize("case", ["mixtral-undecided", "mixtral-window-undecided", "mixtral-top-1-undecided"])
def test_bfloat16_equals_transformers_with_rounded_weights(case: str, tiny) -> None:
    """Rounded weights send tokens that a router is undecided about to other experts: their rows are far from those of
    float32. They are the rows that transformers gives for the same rounded weights (routers and norms are not
    rounded)."""
    reference = CASES[case].make()
    with torch.no_grad():
        for name, p in reference.named_parameters():
            if p.ndim > 1 and not name.endswith("gate.weight"):
                p.copy_(p.bfloat16().float())
    before = _ext.chosen_isa()["isa"]
    _ext.choose_isa("portable")  # which leaves activations float32
    try:
        model = qkv.load(tiny(case), dtype="bfloat16", kv_dtype="float32")
        found = model.logits(CASES[case].sequences())
    finally:
        _ext.choose_isa(before)
    for ids, rows in zip(CASES[case].sequences(), found, strict=True):
        with torch.no_grad():
            expected = reference(torch.tensor([ids])).logits[0].numpy()
        assert np.abs(rows - expected).max() <= 1e-4
