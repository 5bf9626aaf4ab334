"""Checkpoints as transformers saves them, and as other hands do: prefixes, dtype keys, special tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tests.checkpoint.older_files import TEXTS, byte_level, llama_model, t5_model, write
from tests.tiny.encoders import BERT
from tests.tiny.gpt import GPT2
from tests.tiny.llama import LLAMA

import qkv
from qkv.checkpoint import Checkpoint, load_tokenizer

IDS = [5, 17, 3, 99, 40]

MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertModel", "BertConfig", BERT),
    "bert-mlm": ("BertForMaskedLM", "BertConfig", BERT),
    "bert-classify": ("BertForSequenceClassification", "BertConfig", BERT),
    "bert-answer": ("BertForQuestionAnswering", "BertConfig", BERT),
    "gpt2": ("GPT2Model", "GPT2Config", GPT2),
    "gpt2-lm": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt2-classify": ("GPT2ForTokenClassification", "GPT2Config", GPT2),
    "llama": ("LlamaModel", "LlamaConfig", LLAMA | {"tie_word_embeddings": True}),
    "llama-lm": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "llama-classify": ("LlamaForTokenClassification", "LlamaConfig", LLAMA | {"tie_word_embeddings": True}),
}


@pytest.mark.parametrize("name", MODELS)
def test_base_models_and_heads(name: str, tmp_path: Path) -> None:
    kind, config, options = MODELS[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()
    model.save_pretrained(tmp_path)
    base = getattr(model, model.base_model_prefix, model)
    with torch.no_grad():
        expected = base(torch.tensor([IDS])).last_hidden_state[0].numpy()
    np.testing.assert_allclose(qkv.load(tmp_path).hidden_states([IDS])[0], expected, atol=1e-5)


def copied(source: Path, target: Path) -> Path:
    shutil.copytree(source, target)
    return target


@pytest.mark.parametrize(
    ("case", "prefix"),
    [
        ("bert", "module."),
        ("bert", "auto_model."),
        ("gpt2", "_orig_mod."),
        ("gpt2-untied", "module._orig_mod."),
        ("llama", "module."),
        ("llama", "model."),
        ("llama-mha", "model."),
    ],
)
def test_wrapped_models(tiny, tmp_path: Path, case: str, prefix: str) -> None:  # type: ignore[no-untyped-def]
    folder = copied(tiny(case), tmp_path / "wrapped")
    tensors = load_file(folder / "model.safetensors")
    save_file({prefix + name: values for name, values in tensors.items()}, folder / "model.safetensors")
    expected = qkv.load(tiny(case)).hidden_states([IDS])[0]
    np.testing.assert_array_equal(qkv.load(folder).hidden_states([IDS])[0], expected)


@pytest.mark.parametrize("value", ["float16", "float8_e4m3fn", "torch.bfloat16", "nonsense", None, 7, ["a"], {"x": 1}])
@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_the_config_s_dtype_does_not_matter(tiny, tmp_path: Path, key: str, value: object) -> None:  # type: ignore[no-untyped-def]
    folder = copied(tiny("gpt2"), tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    model = qkv.load(folder)
    assert model.dtype == "float32"
    np.testing.assert_array_equal(model.logits([IDS])[0], qkv.load(tiny("gpt2")).logits([IDS])[0])


TOKENIZERS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "gpt2": ("gpt2", byte_level, {}),
    "bart": ("bart", byte_level, {}),
    "t5": ("t5", lambda: {"spiece.model": t5_model()}, {}),
    "llama": ("llama", lambda: {"tokenizer.model": llama_model()}, {"add_bos_token": True}),
    "llama-eos": ("llama", lambda: {"tokenizer.model": llama_model()}, {"add_bos_token": True, "add_eos_token": True}),
}


@pytest.mark.parametrize("older_files", [True, False])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_tokens_of_encode(name: str, older_files: bool, tmp_path: Path) -> None:
    """Of tokenizer.json, too, which transformers writes from the older files."""
    model_type, files, options = TOKENIZERS[name]
    kind = {"gpt2": "GPT2Tokenizer", "bart": "BartTokenizer", "t5": "T5Tokenizer", "llama": "LlamaTokenizer"}[
        model_type
    ]
    config = {"tokenizer_config.json": {"tokenizer_class": kind, **options}}
    folder = write(tmp_path, model_type, {**files(), **config})
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    if not older_files:
        folder = tmp_path / "saved"
        theirs.save_pretrained(folder)
        write(folder, model_type, {})
        # transformers leaves these keys alone where there is a tokenizer.json
        written = json.loads((folder / "tokenizer_config.json").read_text())
        written |= {"add_bos_token": not options.get("add_bos_token"), "add_eos_token": True}
        (folder / "tokenizer_config.json").write_text(json.dumps(written))
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = load_tokenizer(Checkpoint(folder))
    assert ours is not None
    assert (folder / "tokenizer.json").exists() != older_files
    for text in TEXTS:
        assert ours.encode(text).ids == theirs(text).input_ids, text


def test_an_added_token_beyond_the_model(tiny, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = copied(tiny("gpt2"), tmp_path / "copy")  # its vocabulary has 103 tokens, the tokenizer 500
    write(folder, "gpt2", {**byte_level(), "added_tokens.json": {"<new>": 500}}, **{
        key: value for key, value in json.loads((folder / "config.json").read_text()).items() if key != "model_type"
    })  # fmt: skip
    model = qkv.load(folder)
    assert model.tokenizer is not None
    assert model.tokenizer.encode("<new>").ids == [500]
    with pytest.raises(qkv.Error, match=r"token id 500 .* is out of range"):
        model.generate("<new>", max_new_tokens=1)
