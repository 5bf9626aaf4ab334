"""GPT-2's descendants, Falcon and BLOOM beyond logits: hidden states, older spellings, what is refused, ALiBi."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from tests.tiny import CASES
from transformers.models.bloom import modeling_bloom
from transformers.models.falcon import modeling_falcon

import qkv
from qkv.models.alibi import alibi_slopes


def edited(folder, tmp_path, changes, renamed=None):
    """A copy of a checkpoint with other keys in its config (None removes one) and other tensors."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    if renamed:
        save_file(renamed(load_file(copy / "model.safetensors")), copy / "model.safetensors")
    return copy


def logits(folder) -> bytes:
    return b"".join(rows.tobytes() for rows in qkv.load(folder).logits([[5, 6, 7], list(range(60))]))


@pytest.mark.parametrize(
    "case", ["gpt2", "gpt_neo", "gptj", "gpt_neox", "gpt_neox-sequential", "falcon", "falcon-new", "bloom"]
)
def test_hidden_states_of_every_layer(case, tiny) -> None:
    model, ids = qkv.load(tiny(case)), CASES[case].sequences()[3]
    with torch.no_grad():
        states = CASES[case].make()(torch.tensor([ids]), output_hidden_states=True).hidden_states
    names = [f"hidden_states.{i}" for i in range(len(states))]
    assert f"hidden_states.{len(states)}" not in model.program.outputs
    for name, got, state in zip(names, model.run_all(names, [np.array(ids, np.int32)]), states, strict=True):
        assert np.abs(got - state[0].numpy()).max() <= 1e-4, name


def test_alibi_slopes_equal_blooms() -> None:
    for heads in range(1, 130):
        reference = modeling_bloom._get_alibi_slopes(heads, torch.device("cpu")).numpy()
        np.testing.assert_allclose(alibi_slopes(heads), reference, rtol=1e-6)


def test_alibi_of_falcon_is_rounded(tmp_path, monkeypatch) -> None:
    """transformers keeps it in bfloat16, which a few tokens hardly show and hundreds do."""
    options = CASES["falcon-rw"].options | {"num_attention_heads": 16, "hidden_size": 128, "initializer_range": 0.1}
    torch.manual_seed(0)
    reference = transformers.FalconForCausalLM(transformers.FalconConfig(**options)).eval()
    reference.save_pretrained(tmp_path)
    ids = np.random.default_rng(2).integers(0, 100, 900)
    got = qkv.load(tmp_path).logits([ids])[0]
    with torch.no_grad():
        rounded = reference(torch.tensor(ids[None])).logits[0].numpy()
        monkeypatch.setattr(modeling_falcon, "build_alibi_tensor", modeling_bloom.build_alibi_tensor)
        exact = reference(torch.tensor(ids[None])).logits[0].numpy()
    assert np.abs(got - rounded).max() <= 1e-4
    assert np.abs(got - exact)[256:].max() > 0.2


def test_no_end_of_positions(tiny) -> None:
    assert qkv.load(tiny("bloom")).context_length is None
    assert qkv.load(tiny("falcon-rw")).context_length is None
    assert qkv.load(tiny("falcon")).context_length == 300


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        (
            "falcon",
            {
                "model_type": "RefinedWebModel", "n_layer": 2, "n_head": 3, "num_hidden_layers": None,
                "num_attention_heads": None, "num_kv_heads": None, "rope_parameters": None,
            },
        ),
        (
            "falcon-new",
            {
                "model_type": "RefinedWeb", "n_layer": 2, "n_head": 9, "n_head_kv": 3, "num_hidden_layers": None,
                "num_attention_heads": None, "num_kv_heads": None, "new_decoder_architecture": None,
            },
        ),
        ("bloom", {"n_embed": 72, "num_attention_heads": 3, "hidden_size": None, "n_head": None}),
        ("bloom", {"n_embed": 72, "num_attention_heads": 3, "slow_but_exact": True}),
        ("gpt_neox", {"rope_parameters": None, "rotary_pct": 0.25, "rotary_emb_base": 10000}),
        ("gpt_neox-whole-head", {"rope_parameters": None, "rotary_pct": 1.0, "rotary_emb_base": 500}),
        ("gpt_neo", {"attention_layers": None}),
        ("gpt_neo", {"attention_types": None}),
    ],
)  # fmt: skip
def test_older_configs(case, changes, tiny, tmp_path) -> None:
    assert logits(edited(tiny(case), tmp_path, changes)) == logits(tiny(case))


def test_tensors_of_published_checkpoints(tiny, tmp_path) -> None:
    """Pythia and GPT-2 keep masks beside their weights; GPT-NeoX's output layer has two names."""

    def neox(tensors):
        head = tensors.pop("embed_out.weight")
        masks = {
            "gpt_neox.layers.0.attention.bias": np.ones((1, 1, 9, 9), bool),
            "gpt_neox.layers.0.attention.masked_bias": np.array(-1e9, np.float32),
        }
        return tensors | masks | {"lm_head.weight": head}

    assert logits(edited(tiny("gpt_neox"), tmp_path / "neox", {}, neox)) == logits(tiny("gpt_neox"))
    mask = {"transformer.h.0.attn.bias": np.ones((1, 1, 9, 9), np.float32)}
    assert logits(edited(tiny("gpt2"), tmp_path / "gpt2", {}, lambda t: t | mask)) == logits(tiny("gpt2"))


@pytest.mark.parametrize(
    ("case", "changes", "error", "message"),
    [
        ("gpt2", {"add_cross_attention": True}, qkv.UnsupportedArchitecture, "cross_attention"),
        ("gpt2", {"activation_function": "mish"}, qkv.UnsupportedArchitecture, "'mish' is not supported"),
        ("gpt_neo", {"num_heads": 5}, qkv.CheckpointError, "hidden_size 72 is not divisible by num_heads 5"),
        (
            "gpt_neo", {"attention_types": [[["sparse"], 3]], "attention_layers": None}, qkv.UnsupportedArchitecture,
            "attention of type 'sparse'",
        ),
        ("gpt_neo", {"attention_types": [["global", 3]]}, qkv.CheckpointError, r"is not \[types, times\]"),
        ("gpt_neo", {"attention_types": [[[], 3]]}, qkv.CheckpointError, r"is not \[types, times\]"),
        ("gpt_neo", {"attention_types": [[["global"], 3]]}, qkv.CheckpointError, "not what attention_types says"),
        (
            "gpt_neo", {"attention_types": [[["global"], 10**12]], "attention_layers": None}, qkv.CheckpointError,
            "types for 4 layers, but num_layers 3",
        ),
        ("gpt_neo", {"attention_types": None, "attention_layers": None}, qkv.CheckpointError, "types for 4 layers"),
        ("gpt_neo", {"window_size": 0}, qkv.CheckpointError, "window_size is 0"),
        ("gpt2", {"num_attention_heads": 4}, qkv.CheckpointError, "num_attention_heads 4 and n_head 2 differ"),
        ("gpt_neo", {"num_attention_heads": 6}, qkv.CheckpointError, "num_attention_heads 6 and num_heads 3 differ"),
        ("gptj", {"num_hidden_layers": 1}, qkv.CheckpointError, "num_hidden_layers 1 and n_layer 2 differ"),
        ("gptj", {"rotary_dim": None}, qkv.CheckpointError, "'rotary_dim' is missing"),
        ("gptj", {"rotary_dim": 7}, qkv.CheckpointError, "rotary_dim 7 is not an even number of a head's 40"),
        ("gptj", {"rotary_dim": 42}, qkv.CheckpointError, "rotary_dim 42"),
        (
            "gptj", {"n_embd": 2**20, "n_head": 1, "rotary_dim": 2**20}, qkv.CheckpointError,
            "rotary_dim is 1048576; expected at most 65536",
        ),
        ("gpt_neox", {"head_dim": 8}, qkv.CheckpointError, "head_dim is 8; expected .* which is 24"),
        ("gpt_neox", {"rope_parameters": {"rope_type": "mrope"}}, qkv.UnsupportedArchitecture, "'mrope'"),
        ("gpt_neox", {"rope_scaling": {"type": "linear", "factor": "2"}}, qkv.CheckpointError, "factor"),
        ("gpt_neox", {"rope_parameters": {"partial_rotary_factor": 1.5}}, qkv.CheckpointError, r"1\.5; expected"),
        ("gpt_neox", {"rope_parameters": {"partial_rotary_factor": "all"}}, qkv.CheckpointError, "'all'; expected"),
        ("gpt_neox", {"rope_parameters": {"partial_rotary_factor": 0.3}}, qkv.CheckpointError, "turn 7 of 24"),
        ("gpt_neox", {"rope_parameters": {"rope_theta": -1}}, qkv.CheckpointError, "rope_theta .*-1"),
        ("falcon", {"rope_parameters": {"rope_type": "mrope"}}, qkv.UnsupportedArchitecture, "'mrope'"),
        ("falcon-rw", {"hidden_size": 2**20, "num_attention_heads": 2**20}, qkv.CheckpointError, "ALiBi at most 65536"),
        ("bloom", {"hidden_size": 2**20, "n_head": 2**20}, qkv.CheckpointError, "n_head is 1048576; with ALiBi"),
        ("falcon", {"n_head": 4}, qkv.CheckpointError, "n_head 4 and num_attention_heads 3 differ"),
        ("falcon", {"num_ln_in_parallel_attn": 2}, qkv.CheckpointError, "needs new_decoder_architecture"),
        ("falcon", {"multi_query": False, "num_kv_heads": 1}, qkv.CheckpointError, "needs new_decoder_architecture"),
        ("falcon-new", {"parallel_attn": False}, qkv.CheckpointError, "needs parallel_attn"),
        ("falcon-new", {"num_ln_in_parallel_attn": 3}, qkv.CheckpointError, "is 3; expected 1 or 2"),
        ("falcon-new", {"num_kv_heads": 2}, qkv.CheckpointError, "not divisible by num_kv_heads"),
        ("bloom", {"slow_but_exact": True, "pretraining_tp": 2}, qkv.UnsupportedArchitecture, "slow_but_exact"),
        ("bloom", {"n_embed": 64}, qkv.CheckpointError, "n_embed 64 and hidden_size 72 differ"),
    ],
)  # fmt: skip
def test_refused(case, changes, error, message, tiny, tmp_path) -> None:
    with pytest.raises(error, match=message):
        qkv.load(edited(tiny(case), tmp_path, changes))
