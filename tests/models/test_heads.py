"""Heads: which one a checkpoint has, its labels, poolers, batches with empty sequences, tensor names of older files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tests.tiny import CASES

import qkv

IDS = [[5, 6, 7], [8], [10, 11, 12, 13, 14]]


@pytest.fixture
def edited(tiny, tmp_path) -> Callable[..., Path]:
    """A copy of a case's checkpoint with another config (None removes a key) and other tensor names (None removes the
    tensor)."""

    def edited(case: str, names: dict[str, str | None] | None = None, **changes: Any) -> Path:
        copy = shutil.copytree(tiny(case), tmp_path / "copy")
        config = json.loads((copy / "config.json").read_text()) | changes
        (copy / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        tensors = load_file(copy / "model.safetensors")
        for old, new in (names or {}).items():
            tensor = tensors.pop(old)
            if new is not None:
                tensors[new] = tensor
        save_file(tensors, copy / "model.safetensors")
        return copy

    return edited


def same(one: qkv.Model, two: qkv.Model) -> bool:
    return [x.tobytes() for x in one.logits(IDS)] == [x.tobytes() for x in two.logits(IDS)]


def test_labels(tiny, edited) -> None:
    assert qkv.load(tiny("bert-sequences")).labels == [f"LABEL_{i}" for i in range(7)]
    assert qkv.load(tiny("bert")).labels == qkv.load(tiny("bert-question")).labels == []
    folder = edited("gpt2-tokens", id2label={str(i): name for i, name in reversed(list(enumerate("ABCDEFG")))})
    assert qkv.load(folder).labels == list("ABCDEFG")


def test_number_of_labels(edited) -> None:
    """Old files have num_labels instead of names."""
    model = qkv.load(edited("llama-sequences", id2label=None, num_labels=7))
    assert len(model.labels) == 7
    assert model.logits(IDS)[0].shape == (7,)


@pytest.mark.parametrize("case", ["bert", "bert-sequences", "roberta", "albert"])
def test_pooler(case: str, tiny) -> None:
    model, reference = qkv.load(tiny(case)), CASES[case].make().base_model
    types = [[i % 2 for i, _ in enumerate(ids)] for ids in IDS]
    got = model.pooler_output(IDS, types)
    assert got.shape == (len(IDS), model.hidden_size)
    for row, ids, type_ids in zip(got, IDS, types, strict=True):
        with torch.no_grad():
            expected = reference(torch.tensor([ids]), token_type_ids=torch.tensor([type_ids])).pooler_output[0].numpy()
        assert np.abs(row - expected).max() <= 1e-5
    assert np.abs(got[0] - got[1]).max() > 0.1


def test_logits_of_token_types(tiny) -> None:
    model, reference = qkv.load(tiny("bert-sequences")), CASES["bert-sequences"].make()
    types = [[2, 0, 1], [1], [0, 1, 2, 2, 2]]
    for got, ids, type_ids in zip(model.logits(IDS, types), IDS, types, strict=True):
        with torch.no_grad():
            expected = reference(torch.tensor([ids]), token_type_ids=torch.tensor([type_ids])).logits[0].numpy()
        assert np.abs(got - expected).max() <= 1e-5
    assert not np.allclose(model.logits(IDS)[1], model.logits(IDS, types)[1], atol=1e-2)


@pytest.mark.parametrize(
    ("case", "shape"),
    [
        ("bert-mlm", (0, 101)), ("bert-sequences", (7,)), ("bert-tokens", (0, 7)), ("bert-question", (0, 2)),
        ("llama-sequences", (7,)),
    ],
)  # fmt: skip
def test_empty_batches_and_sequences(case: str, shape: tuple[int, ...], tiny) -> None:
    model = qkv.load(tiny(case))
    assert model.logits([]) == []
    empty, full, last = model.logits([[], [1, 2], []])
    assert empty.shape == last.shape == shape
    assert empty.tobytes() == last.tobytes() == model.logits([[]])[0].tobytes()
    assert full.tobytes() == model.logits([[1, 2]])[0].tobytes()


def test_empty_poolers_and_layers(tiny) -> None:
    model = qkv.load(tiny("bert"))
    assert model.pooler_output([]).shape == (0, 40)
    assert not model.pooler_output([[], [1]])[0].any()
    assert model.hidden_states([], all_layers=True) == []
    assert [x.shape for x in model.hidden_states([[], [1, 2]], all_layers=True)] == [(3, 0, 40), (3, 2, 40)]


@pytest.mark.parametrize("architectures", [None, ["SomebodysBert"]])
@pytest.mark.parametrize("case", ["bert-mlm", "roberta-mlm", "albert-mlm", "distilbert-mlm", "gpt2", "bert-question"])
def test_heads_are_found(case: str, architectures, tiny, edited) -> None:
    """Where `architectures` does not say what there is, tensors that only one head has do."""
    assert same(qkv.load(edited(case, architectures=architectures)), qkv.load(tiny(case)))


@pytest.mark.parametrize("case", ["bert-sequences", "distilbert-tokens"])
def test_models_without_a_known_head(case: str, tiny, edited) -> None:
    """A `classifier` may be of sequences or of tokens: without `architectures` nobody knows."""
    with pytest.warns(qkv.UnusedWeights, match=r"classifier\.weight"):
        model = qkv.load(edited(case, architectures=None))
    expected = qkv.load(tiny(case)).hidden_states(IDS)
    assert [x.tobytes() for x in model.hidden_states(IDS)] == [x.tobytes() for x in expected]
    with pytest.raises(qkv.Error, match=r"no output 'logits'; it has: embedding, hidden_states(, pooler_output)?$"):
        model.logits(IDS)


@pytest.mark.parametrize(
    ("case", "old", "new"),
    [
        ("bert-mlm", "cls.predictions.bias", "cls.predictions.decoder.bias"),
        ("roberta-mlm", "lm_head.bias", "lm_head.decoder.bias"),
        ("albert-mlm", "predictions.bias", "predictions.decoder.bias"),
    ],
)
def test_either_name_of_the_bias(case: str, old: str, new: str, tiny, edited) -> None:
    folder = edited(case, {old: new})
    assert same(qkv.load(folder), qkv.load(tiny(case)))


def test_names_of_the_first_bert(tiny, edited) -> None:
    """google-bert/bert-base-uncased calls the parameters of its norms gamma and beta."""
    names = load_file(tiny("bert-mlm") / "model.safetensors")
    old = {
        name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        for name in names
        if "LayerNorm" in name
    }
    assert len(old) == 2 * (1 + 2 * 2 + 1)
    assert same(qkv.load(edited("bert-mlm", old)), qkv.load(tiny("bert-mlm")))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_sinusoids_that_a_checkpoint_lacks(dtype: str, tiny, edited) -> None:
    folder = edited("distilbert-sinusoids", {"embeddings.position_embeddings.weight": None})
    one, two = qkv.load(folder, dtype=dtype), qkv.load(tiny("distilbert-sinusoids"), dtype=dtype)
    for a, b in zip(one.hidden_states(IDS), two.hidden_states(IDS), strict=True):
        assert np.abs(a - b).max() <= (1e-5 if dtype == "float32" else 0.1)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("roberta", {"is_decoder": True}, "is_decoder is not supported"),
        ("bert", {"add_cross_attention": True}, "add_cross_attention is not supported"),
        ("roberta", {"position_embedding_type": "relative_key"}, "'relative_key' is not supported"),
        ("albert", {"position_embedding_type": "relative_key_query"}, "'relative_key_query' is not supported"),
        ("roberta", {"pad_token_id": 199}, "leaves no position behind pad_token_id 199"),
        ("albert", {"num_hidden_groups": 4}, "num_hidden_groups 4 is more than num_hidden_layers 3"),
        ("albert", {"num_attention_heads": 3}, "not divisible"),
        ("albert", {"num_hidden_layers": 2**20}, "num_hidden_layers 1048576 times inner_group_num 2 is more than"),
        ("distilbert-sinusoids", {"max_position_embeddings": 2**20}, "max_position_embeddings 1048576 times dim 72 is"),
        ("bert-sequences", {"id2label": None, "num_labels": 2**24}, "num_labels is 16777216 without id2label"),
        ("albert", {"embedding_size": 22}, r"expected shape \[200, 22\] from config.json"),
        ("distilbert", {"n_heads": 5}, "not divisible"),
        ("distilbert", {"activation": "mish"}, "'mish' is not supported"),
        ("bert-sequences", {"id2label": {"1": "A", "2": "B"}}, "keys of id2label are 1, 2; expected the numbers"),
        ("bert-sequences", {"id2label": {}}, "id2label"),
        (
            "bert-sequences",
            {"id2label": None, "num_labels": 5},
            r"'classifier.bias': expected shape \[5\].*found \[7\]",
        ),
        ("bert", {"architectures": ["BertForSequenceClassification"]}, "no tensor 'classifier.bias'"),
        ("bert", {"architectures": ["BertForMaskedLM"]}, "no tensor 'cls.predictions.transform.dense.weight'"),
        ("bert-tokens", {"architectures": ["BertForSequenceClassification"]}, "has no pooler, which its classifier"),
        ("bert", {"architectures": "BertModel"}, "architectures is 'BertModel'; expected a list"),
        ("llama-base", {"is_causal": False}, "is_causal is false: attention to later tokens is not supported"),
        ("gpt2", {"is_causal": False}, "is_causal is false"),
        ("distilbert", {"num_attention_heads": 6}, "num_attention_heads 6 and n_heads 3 differ"),
        ("llama-base", {"architectures": ["LlamaForCausalLM"]}, "no tensor 'lm_head.weight'"),
    ],
)
def test_configs_that_do_not_fit(case: str, changes: dict[str, Any], message: str, edited) -> None:
    with pytest.raises(qkv.Error, match=message):
        qkv.load(edited(case, **changes))


@pytest.mark.parametrize("case", ["llama-base", "llama-sequences", "gpt2-tokens", "bert-mlm"])
def test_nothing_to_generate(case: str, tiny) -> None:
    with pytest.raises(qkv.Error, match=r"nothing to (generate|cache or to generate)"):
        qkv.load(tiny(case)).generate([1, 2, 3])


def test_layers_of_a_group_share_memory(tiny) -> None:
    """Three layers of two inner ones are six, of two layers' weights."""
    folder = tiny("albert-mlm-untied")
    tensors = load_file(folder / "model.safetensors").values()
    assert qkv.load(folder).nbytes < 1.7 * sum(tensor.nbytes for tensor in tensors)


def test_positions_behind_the_padding_id(tiny) -> None:
    model = qkv.load(tiny("roberta"))
    assert model.context_length == 190
    with pytest.raises(qkv.Error, match="191 tokens; the model takes at most 190"):
        model.hidden_states([[1] * 191])
