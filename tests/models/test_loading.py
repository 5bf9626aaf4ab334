"""Opening a checkpoint: the dtype that "auto" chooses, and little more memory than the packed weights."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import save_file

import qkv

PROBE = """
import json, re, sys
import qkv
model = qkv.load(sys.argv[1], dtype=sys.argv[2])
peak = int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024
print(json.dumps({"peak": peak, "nbytes": model.nbytes}))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A LLaMA of 300 MB in three shards: large enough that a second copy of the weights could not hide."""
    folder = tmp_path_factory.mktemp("large")
    hidden, inner, vocab, layers = 1024, 2752, 8000, 5
    config = {
        "model_type": "llama", "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": 16,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (vocab, hidden), "lm_head": (vocab, hidden), "model.norm": (hidden,)}
    for i in range(layers):
        layer = f"model.layers.{i}."
        shapes |= {layer + f"self_attn.{p}_proj": (hidden, hidden) for p in "qkvo"}
        shapes |= {layer + f"mlp.{p}_proj": (inner, hidden) for p in ("gate", "up")}
        shapes |= {layer + "mlp.down_proj": (hidden, inner)}
        shapes |= {layer + p: (hidden,) for p in ("input_layernorm", "post_attention_layernorm")}
    rng = np.random.default_rng(0)
    weight_map = {}
    for shard in range(3):
        tensors = {f"{name}.weight": rng.random(shapes[name], np.float32) for name in sorted(shapes)[shard::3]}
        file = f"model-{shard + 1:05}-of-00003.safetensors"
        save_file(tensors, folder / file)
        weight_map |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder, max(4 * int(np.prod(s)) for s in shapes.values()), sum(4 * int(np.prod(s)) for s in shapes.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peak_memory(checkpoint, dtype) -> None:
    folder, largest, total = checkpoint
    command = [sys.executable, "-c", PROBE, str(folder), dtype]
    seen = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert seen["nbytes"] == pytest.approx(total if dtype == "float32" else total / 2, rel=0.01)
    assert seen["peak"] <= seen["nbytes"] + largest + 100e6


@pytest.mark.parametrize(
    ("stored", "chosen"),
    [
        ({"": torch.bfloat16}, "bfloat16"),
        ({"": torch.float16}, "float32"),
        ({"": torch.float32}, "float32"),
        ({"": torch.bfloat16, "norm": torch.float32}, "bfloat16"),  # vectors are float32 in memory anyway
        ({"": torch.bfloat16, "layers.1.mlp.up_proj": torch.float32}, "float32"),
        ({"": torch.bfloat16, "layers.1.mlp.up_proj": torch.float16}, "float32"),
    ],
)
def test_auto_never_rounds_a_weight(stored, chosen, tiny, tmp_path) -> None:
    """The last pattern in a tensor's name says how it is stored. Integers, such as old BERTs' ids, do not count."""
    tensors = safetensors.torch.load_file(tiny("llama") / "model.safetensors")
    for name in tensors:
        for pattern, dtype in stored.items():
            if pattern in name:
                tensors[name] = tensors[name].to(dtype)
    tensors["model.position_ids"] = torch.arange(9).reshape(1, 9)
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((tiny("llama") / "config.json").read_text())
    assert qkv.load(tmp_path).dtype == chosen


def test_unknown_dtype(tiny_llama) -> None:
    with pytest.raises(qkv.Error, match="'fp8' is not one of auto, float32, bfloat16, int8, int4"):
        qkv.load(tiny_llama, dtype="fp8")
