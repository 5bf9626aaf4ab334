"""LLaMA, Mistral, Qwen, Phi-3 and Gemma beyond the parity cases: hidden states of layers, tensor names and configs as
published checkpoints have them, configs that are refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from tests.tiny import CASES
from tests.tiny.gemma import GEMMA

import qkv

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text")


def edited(folder, tmp_path, **changes):
    """A copy of a checkpoint with another config."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize("case", FAMILIES)
def test_hidden_states_of_every_layer(case: str, tiny) -> None:
    reference, model = CASES[case].make(), qkv.load(tiny(case))
    ids = CASES[case].sequences()[4]
    with torch.no_grad():
        expected = reference(torch.tensor([ids]), output_hidden_states=True).hidden_states
    names = [f"hidden_states.{i}" for i in range(len(expected))]
    assert f"hidden_states.{len(expected)}" not in model.program.outputs
    got = model.run_all([*names, "hidden_states"], [np.array(ids, np.int32)])
    for mine, theirs in zip(got, [*expected, expected[-1]], strict=True):
        assert np.abs(mine - theirs[0].numpy()).max() <= 1e-4


@pytest.mark.parametrize(("case", "base"), [("llama", "LlamaModel"), ("gemma3_text", "Gemma3TextModel")])
def test_base_models_names(case: str, base: str, tiny, tmp_path) -> None:
    """A base model that was saved on its own has names without "model.", and no output layer unless it is tied."""
    folder = edited(tiny(case), tmp_path, architectures=[base])
    tensors = load_file(folder / "model.safetensors")
    kept = {name.removeprefix("model."): values for name, values in tensors.items() if name != "lm_head.weight"}
    kept["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)  # of old files; computed
    save_file(kept, folder / "model.safetensors")
    model, whole = qkv.load(folder), qkv.load(tiny(case))
    ids = CASES[case].sequences()[3]
    assert model.hidden_states([ids])[0].tobytes() == whole.hidden_states([ids])[0].tobytes()
    if case == "llama":
        with pytest.raises(qkv.Error, match="no output 'logits'"):
            model.logits([ids])
    else:
        assert model.logits([ids])[0].tobytes() == whole.logits([ids])[0].tobytes()


def test_missing_output_layer(tiny, tmp_path) -> None:
    folder = edited(tiny("llama"), tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(qkv.CheckpointError, match=r"no tensor 'lm_head\.weight'"):
        qkv.load(folder)


def test_mistral_with_layer_types(tiny, tmp_path) -> None:
    """As transformers' AutoModel reads it: a Ministral."""
    folder = edited(tiny("mistral-layer-types"), tmp_path, model_type="mistral")
    ids = CASES["mistral-layer-types"].sequences()[4]
    expected = qkv.load(tiny("mistral-layer-types")).logits([ids])[0]
    assert qkv.load(folder).logits([ids])[0].tobytes() == expected.tobytes()


def test_gemma3_with_an_image_encoder(tmp_path) -> None:
    eyes = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(0)
    config = transformers.Gemma3Config(
        text_config=GEMMA | {"sliding_window_pattern": 2, "initializer_range": 0.15},
        vision_config=eyes,
        mm_tokens_per_image=4,
        eos_token_id=[1, 106],
    )
    reference = transformers.Gemma3ForConditionalGeneration(config).eval()
    reference.save_pretrained(tmp_path)
    ids = CASES["gemma3_text"].sequences()[5]
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits[0].numpy()
    with pytest.warns(qkv.UnusedWeights, match="vision_tower"):
        model = qkv.load(tmp_path)
    assert np.abs(model.logits([ids])[0] - expected).max() <= 1e-4
    assert np.abs(expected).max() > 0.5
    assert model.config.eos_token_id == [1, 106]  # of the whole model, not of its text


def test_gemma3_text_config_may_leave_out_what_is_usual(tmp_path) -> None:
    """Published files do; transformers' defaults are those of this file's Config."""
    from qkv.models import gemma3

    config = gemma3.Config.from_dict({"text_config": {"hidden_size": 2560, "num_hidden_layers": 34}})
    usual = transformers.Gemma3TextConfig(hidden_size=2560, num_hidden_layers=34)
    for name in ("vocab_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
                 "max_position_embeddings", "rms_norm_eps", "query_pre_attn_scalar", "sliding_window"):  # fmt: skip
        assert getattr(config, name) == getattr(usual, name)
    assert config.types_of_layers == usual.layer_types
    with pytest.raises(qkv.CheckpointError, match="text_config is 3; expected an object"):
        gemma3.Config.from_dict({"text_config": 3})


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("llama", {"hidden_act": "mish"}, "'mish' is not supported"),
        ("llama", {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": None}, "hidden_size 48 is not div"),
        ("llama", {"rope_parameters": {"rope_type": "mrope"}}, "'mrope'; supported are: default"),
        ("mistral", {"sliding_window": 0}, "sliding_window is 0"),
        ("mistral", {"num_hidden_layers": 2**24}, "num_hidden_layers is 16777216; expected at most 65536"),
        ("mistral", {"layer_types": ["full_attention"]}, "layer_types has 1 entries for num_hidden_layers 2"),
        ("mistral", {"layer_types": ["full_attention", "chunked_attention"]}, "layer_types has 'chunked_attention'"),
        (
            "mistral",
            {"sliding_window": None, "layer_types": ["full_attention", "sliding_attention"]},
            "sliding_window gives these layers no size",
        ),
        ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "sliding_window gives these layers no size"),
        ("qwen2", {"num_key_value_heads": 4}, "num_attention_heads 6 is not divisible by num_key_value_heads 4"),
        ("qwen3", {"head_dim": 32}, r"expected shape \[192, 48\]"),
        ("phi3", {"attention_bias": True}, "attention_bias is not supported for phi3"),
        ("phi3", {"lm_head_bias": True}, "lm_head_bias is not supported for phi3"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is not supported"),
        ("gemma2", {"attn_logit_softcapping": 0}, r"attn_logit_softcapping is 0\.0; expected a number above 0"),
        ("gemma2", {"query_pre_attn_scalar": -1}, r"query_pre_attn_scalar is -1\.0"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention is not supported"),
        ("gemma3_text", {"original_max_position_embeddings": 99}, "original_max_position_embeddings is not supported"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is not supported"),
        ("gemma3_text", {"final_logit_softcapping": -2}, r"final_logit_softcapping is -2\.0"),
        ("gemma3_text", {"rope_parameters": {"rope_theta": 1e4}}, "expected an object each for 'full_attention'"),
        (
            "gemma3_text",
            {"rope_parameters": {"sliding_attention": {"rope_type": "linear"}}},
            r"factor of rope_parameters\.sliding_attention is missing",
        ),
    ],
)
def test_refused(case: str, changes: dict, message: str, tiny, tmp_path) -> None:
    folder = edited(tiny(case), tmp_path, **changes)
    with pytest.raises(qkv.Error, match=message):
        qkv.load(folder)
