"""Checkpoints that others quantised are refused in a sentence, by their tensors as well as by their config."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import qkv
from qkv.checkpoint import Checkpoint
from qkv.errors import CheckpointError

WEIGHT = {"model.norm.weight": torch.ones(8)}
LAYER = "model.layers.0.mlp.up_proj"
GPTQ = {
    f"{LAYER}.qweight": torch.zeros(1, 8, dtype=torch.int32),
    f"{LAYER}.qzeros": torch.zeros(1, 1, dtype=torch.int32),
    f"{LAYER}.scales": torch.ones(1, 8, dtype=torch.float16),
    f"{LAYER}.g_idx": torch.zeros(8, dtype=torch.int32),
}
AWQ = {name: values for name, values in GPTQ.items() if not name.endswith("g_idx")}
LLM_INT8 = {
    f"{LAYER}.weight": torch.zeros(8, 8, dtype=torch.int8),
    f"{LAYER}.SCB": torch.ones(8),
    f"{LAYER}.weight_format": torch.tensor(0, dtype=torch.uint8),
}
NF4 = {
    f"{LAYER}.weight": torch.zeros(32, 1, dtype=torch.uint8),
    f"{LAYER}.weight.absmax": torch.ones(1),
    f"{LAYER}.weight.quant_map": torch.ones(16),
    f"{LAYER}.weight.quant_state.bitsandbytes__nf4": torch.zeros(4, dtype=torch.uint8),
}
FLOAT8 = {
    f"{LAYER}.weight": torch.zeros(8, 8).to(torch.float8_e4m3fn),
    f"{LAYER}.weight_scale": torch.ones(1),
}


@pytest.mark.parametrize(
    ("tensors", "form"),
    [
        (GPTQ, "GPTQ or AWQ"),
        (AWQ, "GPTQ or AWQ"),
        (LLM_INT8, "bitsandbytes"),
        (NF4, "bitsandbytes"),
        (FLOAT8, "float8"),
        ({f"{LAYER}.weight": torch.zeros(2, 2).to(torch.float8_e5m2)}, "float8"),
    ],
    ids=["gptq", "awq", "llm.int8", "nf4", "e4m3", "e5m2"],
)
def test_by_its_tensors(folder: Path, tensors: dict[str, torch.Tensor], form: str) -> None:
    save_file({**WEIGHT, **tensors}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: the tensor '.*' \(.*\) is {form}'s") as caught:
        qkv.load(folder)
    message = str(caught.value)
    assert "quantised weights are not supported" in message
    assert "Use the float32, float16 or bfloat16 checkpoint" in message
    assert 'dtype="int8" or "int4"' in message


def test_scales_that_are_weights(folder: Path) -> None:
    """Vision models have such parameters; only beside packed integers do they mean quantisation."""
    save_file({**WEIGHT, "layer.scales": torch.ones(8), "layer.scale": torch.ones(8)}, folder / "model.safetensors")
    Checkpoint.open(folder).close()


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8"])
def test_by_its_config(folder: Path, method: str) -> None:
    (folder / "config.json").write_text(f'{{"quantization_config": {{"quant_method": "{method}"}}}}')
    save_file(WEIGHT, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"config\.json: quantised weights.*quantization_config by {method}"):
        Checkpoint.open(folder)
