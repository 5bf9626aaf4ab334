"""What is taken for a configuration, what is refused and how, and which heads a planned checkpoint has."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import qkv
from qkv.checkpoint import Config
from qkv.planning import tensors
from qkv.planning.tensors import PlannedTensors, PlannedWeights


@pytest.fixture
def config(tiny_llama: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tiny_llama / "config.json").read_text())
    return found


def test_a_folder_or_its_config_or_another_json_file(tiny_llama: Path, tmp_path: Path) -> None:
    other = tmp_path / "larger.json"
    shutil.copy(tiny_llama / "config.json", other)
    plans = [qkv.plan(path, measure=False) for path in (tiny_llama, str(tiny_llama / "config.json"), other)]
    assert [Path(found.file).name for found in plans] == ["config.json", "config.json", "larger.json"]
    assert len({found.parameters for found in plans}) == 1


def test_no_weights_are_needed(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert qkv.plan(tmp_path, measure=False).parameters > 0
    with pytest.raises(qkv.CheckpointError, match="no weights"):
        qkv.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "bogus"},
        {"model_type": None},
        {"num_attention_heads": 5},
        {"hidden_size": "large"},
        {"hidden_size": None},
        {"rope_parameters": {"rope_type": "bogus"}},
        {"hidden_act": "bogus"},
        {"quantization_config": {"quant_method": "gptq"}},
    ],
)
def test_refused_as_load_refuses(
    change: dict[str, Any], config: dict[str, Any], tiny_llama: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_llama, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(qkv.Error) as loading:
        qkv.load(tmp_path)
    with pytest.raises(type(loading.value)) as planning:
        qkv.plan(tmp_path, measure=False)
    assert str(planning.value) == str(loading.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.gguf", "GGUF", "model.gguf' is not a configuration; expected a config.json, the checkpoint folder"),
        ("model.safetensors", "", "model.safetensors' is not a configuration"),
        ("config.json", "{", "config.json is not valid JSON"),
        ("config.json", "[]", "config.json holds a list at its top level; expected an object"),
        ("config.json", "{}", "config.json: model_type None is not supported"),
        ("gone/config.json", None, "gone/config.json' does not exist; expected a checkpoint folder or a hub id"),
    ],
)
def test_files_that_are_no_configuration(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(qkv.Error, match=message):
        qkv.plan(tmp_path / name, measure=False)


def test_a_folder_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(qkv.CheckpointError, match=r"has no config\.json; expected a Hugging Face checkpoint folder"):
        qkv.plan(tmp_path, measure=False)


def test_no_end_of_layers(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "_MOST_TENSORS", 1000)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2**24}))
    with pytest.raises(qkv.CheckpointError, match=r"config\.json asks for more than 1,000 tensors"):
        qkv.plan(tmp_path, measure=False)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"prompt_tokens": 0}, "prompt_tokens must be an integer from 1 to 400, not 0"),
        ({"prompt_tokens": 401}, "prompt_tokens must be an integer from 1 to 400, not 401"),
        ({"num_threads": True}, "num_threads must be an integer from 1 to 1024, not True"),
    ],
)
def test_arguments_out_of_range(argument: dict[str, Any], message: str, tiny_llama: Path) -> None:
    with pytest.raises(qkv.Error, match=f"plan: {message}"):
        qkv.plan(tiny_llama, measure=False, **argument)


# What model files of a family may ask for.
HEADS = {
    "Bert": ("cls.predictions", "cls.predictions.transform", "cls.predictions.decoder", "classifier", "qa_outputs"),
    "Roberta": ("lm_head", "lm_head.dense", "lm_head.decoder", "classifier", "qa_outputs"),
    "Albert": ("predictions", "predictions.dense", "predictions.decoder", "classifier", "qa_outputs"),
    "DistilBert": ("vocab_transform", "vocab_projector", "vocab_projector.weight", "pre_classifier", "classifier"),
    "Llama": ("lm_head", "score"),
    "GPT2": ("lm_head", "score"),
    "GPTNeoX": ("lm_head", "score"),
    "Bart": ("lm_head", "final_logits_bias", "classification_head"),
    "Marian": ("lm_head", "final_logits_bias"),
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("Bert", "Model"), ("Bert", "ForMaskedLM"), ("Bert", "ForPreTraining"), ("Bert", "ForSequenceClassification"),
        ("Bert", "ForTokenClassification"), ("Bert", "ForQuestionAnswering"), ("Roberta", "Model"),
        ("Roberta", "ForMaskedLM"), ("Roberta", "ForSequenceClassification"), ("Albert", "Model"),
        ("Albert", "ForMaskedLM"), ("Albert", "ForSequenceClassification"), ("Albert", "ForQuestionAnswering"),
        ("DistilBert", "ForMaskedLM"), ("DistilBert", "ForSequenceClassification"), ("Llama", "Model"),
        ("Llama", "ForCausalLM"), ("Llama", "ForSequenceClassification"), ("GPT2", "LMHeadModel"),
        ("GPTNeoX", "ForCausalLM"), ("Bart", "ForConditionalGeneration"), ("Bart", "ForSequenceClassification"),
        ("Marian", "MTModel"),
    ],
)  # fmt: skip
def test_heads_of_a_planned_checkpoint(family: str, head: str, tied: bool) -> None:
    """Beside the names that transformers saves: those of the class, without tied ones."""
    config = getattr(transformers, f"{family}Config")(tie_word_embeddings=tied)
    with torch.device("meta"):
        model = getattr(transformers, family + head)(config)
    saved = set(model.state_dict()) - (set(model.all_tied_weights_keys) if tied else set())

    named = Config()
    named.tie_word_embeddings = tied  # type: ignore[attr-defined]
    planned = PlannedWeights(PlannedTensors(Path(), {"architectures": [family + head]}, named))

    def held(name: str) -> bool:
        return any(f"{key}.".startswith(f"{name}.") for key in saved)

    assert {name for name in HEADS[family] if name in planned} == {name for name in HEADS[family] if held(name)}
    prefix = model.base_model_prefix
    below = planned.under(f"{prefix}.", "")
    assert below.prefix == (prefix if held(prefix) else "")
    if family in ("Bert", "Roberta", "Albert"):
        assert ("pooler" in below) == held(below._join("pooler"))
