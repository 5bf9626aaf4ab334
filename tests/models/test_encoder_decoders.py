"""Encoders with decoders: hidden states, relative positions, names of published checkpoints, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tests.tiny import CASES
from transformers.models.t5.modeling_t5 import T5Attention

import qkv
from qkv.models.relative_positions import bucket

SOURCES = [[7], [5, 6, 7, 8, 9, 10], list(range(10, 70))]
TARGETS = [[3, 4, 5], [8], [1, *range(20)]]


def edited(folder: Path, tmp_path: Path, rename: dict[str, str | None] = {}, **changes: Any) -> Path:  # noqa: B006
    """A copy with another config, and with tensors renamed, or dropped where the new name is None."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps(config))
    tensors = {rename.get(name, name): values for name, values in load_file(copy / "model.safetensors").items()}
    save_file({name: values for name, values in tensors.items() if name}, copy / "model.safetensors")
    return copy


def logits(model: qkv.Model) -> list[bytes]:
    return [rows.tobytes() for rows in model.logits(SOURCES, decoder_ids=TARGETS)]


@pytest.mark.parametrize("case", ["t5", "bart", "mbart", "marian"])
def test_hidden_states_of_all_layers(case: str, tiny) -> None:
    reference, model = CASES[case].make(), qkv.load(tiny(case))
    assert model.encoder is not None
    outputs = [name for name in model.program.outputs if name.startswith("hidden_states.")]
    for ids, target in zip(SOURCES, TARGETS, strict=True):
        with torch.no_grad():
            expected = reference(
                torch.tensor([ids]), decoder_input_ids=torch.tensor([target]), output_hidden_states=True
            )
        theirs = [x[0].numpy() for x in expected.decoder_hidden_states]
        source = model.read_source([np.array(ids, np.int32)])
        mine = model.run_all(outputs, [np.array(target, np.int32)], source=source)
        for a, b in zip(mine, theirs, strict=True):
            assert np.abs(a - b).max() <= 1e-4
        assert np.abs(model.hidden_states([ids], decoder_ids=[target])[0] - theirs[-1]).max() <= 1e-4
        last = model.encoder_hidden_states([ids])[0]
        assert np.abs(last - expected.encoder_last_hidden_state[0].numpy()).max() <= 1e-4
        names = [name for name in model.encoder.outputs if name.startswith("encoder_hidden_states.")]
        assert len(names) == len(expected.encoder_hidden_states)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "most"), [(32, 128), (10, 50), (4, 3), (7, 20), (64, 1000), (32, 17)])
def test_buckets_are_those_of_transformers(buckets: int, most: int, bidirectional: bool) -> None:
    distances = np.arange(-2 * most, 2 * most + 1)
    expected = T5Attention._relative_position_bucket(torch.tensor(distances), bidirectional, buckets, most).numpy()
    assert bucket(distances, buckets, most, bidirectional).tolist() == expected.tolist()
    assert np.ptp(expected[distances >= most]) == np.ptp(expected[distances <= -most]) == 0  # one bucket from there on


@pytest.mark.parametrize(
    ("case", "rename"),
    [
        ("t5", {"shared.weight": "encoder.embed_tokens.weight"}),
        ("t5", {"shared.weight": "decoder.embed_tokens.weight"}),
        ("t5", {"shared.weight": "lm_head.weight"}),
        ("bart", {"model.shared.weight": "model.decoder.embed_tokens.weight"}),
        ("marian", {"model.shared.weight": "model.encoder.embed_tokens.weight"}),
    ],
)
def test_shared_tables_under_their_other_names(case: str, rename: dict[str, str], tiny, tmp_path) -> None:
    assert logits(qkv.load(edited(tiny(case), tmp_path, rename))) == logits(qkv.load(tiny(case)))


def test_tensors_that_published_files_carry_along(tiny, tmp_path) -> None:
    """T5's first files have a bias of cross-attention that nothing reads, Marian's their positions."""
    for case, name, shape in (
        ("t5", "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", (32, 3)),
        ("marian", "model.encoder.embed_positions.weight", (400, 48)),
    ):
        copy = edited(tiny(case), tmp_path / case)
        tensors = load_file(copy / "model.safetensors")
        save_file(tensors | {name: np.ones(shape, np.float32)}, copy / "model.safetensors")
        assert logits(qkv.load(copy)) == logits(qkv.load(tiny(case)))


def test_t5_1_1_as_published_and_as_transformers_5_writes_it(tiny, tmp_path) -> None:
    folder = tiny("t5-v1.1")
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
    published = edited(folder, tmp_path, tie_word_embeddings=False, scale_decoder_outputs=None)
    assert logits(qkv.load(published)) == logits(qkv.load(folder))


def test_a_checkpoint_without_a_head(tiny, tmp_path) -> None:
    model = qkv.load(edited(tiny("bart-untied"), tmp_path, {"lm_head.weight": None, "final_logits_bias": None}))
    assert model.hidden_states(SOURCES, decoder_ids=TARGETS)[1].shape == (1, 48)
    for call in (lambda: model.logits(SOURCES, decoder_ids=TARGETS), lambda: model.generate([5])):
        with pytest.raises(qkv.Error, match=r"no output|no head"):
            call()


def test_classifiers_need_an_end_of_sequence_token(tiny) -> None:
    model = qkv.load(tiny("bart-classifier"))
    assert [row.shape for row in model.logits([[5, 2], [2, 7, 7, 2, 7]])] == [(5,), (5,)]
    assert model.logits([]) == []
    with pytest.raises(qkv.Error, match="end-of-sequence token 2; a sequence has none"):
        model.logits([[5, 2], [5, 6]])
    with pytest.raises(qkv.Error, match="leave out decoder_ids"):
        model.logits([[5, 2]], decoder_ids=[[2, 5]])


def test_tokens_that_classifiers_start_and_end_with(tiny, tmp_path) -> None:
    one = qkv.load(tiny("bart-classifier"))
    either = qkv.load(edited(tiny("bart-classifier"), tmp_path / "either", eos_token_id=[2, 9]))
    assert either.logits([[5, 2]])[0].tobytes() == one.logits([[5, 2]])[0].tobytes()
    assert either.logits([[5, 9]])[0].shape == (5,)
    for ends in ([], None):
        with pytest.raises(qkv.Error, match="a sequence has none"):
            qkv.load(edited(tiny("bart-classifier"), tmp_path / f"{ends}", eos_token_id=ends)).logits([[5, 2]])
    without = qkv.load(edited(tiny("bart-classifier"), tmp_path / "start", decoder_start_token_id=None))
    with pytest.raises(qkv.Error, match=r"config\.json: decoder_start_token_id is null"):
        without.logits([[5, 2]])


def test_what_is_said_to_batches_that_do_not_fit(tiny) -> None:
    model = qkv.load(tiny("bart"))
    assert model.logits([], decoder_ids=[]) == model.hidden_states([], decoder_ids=[]) == []
    assert model.encoder_hidden_states([]) == []
    assert model.logits([[5], [6]], decoder_ids=[[], [7]])[0].shape == (0, 103)
    for call in (model.logits, model.hidden_states):
        with pytest.raises(qkv.Error, match="give decoder_ids"):
            call([[5]])
        with pytest.raises(qkv.Error, match="2 decoder_ids for a batch of 1"):
            call([[5]], decoder_ids=[[5], [6]])
        with pytest.raises(qkv.Error, match="sequence 1 is empty"):
            call([[5], []], decoder_ids=[[5], [6]])
        with pytest.raises(qkv.Error, match="token id 103"):
            call([[103]], decoder_ids=[[5]])
        with pytest.raises(qkv.Error, match="token id 103"):
            call([[5]], decoder_ids=[[103]])
        with pytest.raises(qkv.Error, match="at most 400"):
            call([[5] * 401], decoder_ids=[[5]])
        with pytest.raises(qkv.Error, match="at most 400"):
            call([[5]], decoder_ids=[[5] * 401])
    with pytest.raises(qkv.Error, match="encode: a model with an encoder and a decoder"):
        model.encode("text")


def test_models_of_one_part(tiny_gpt2) -> None:
    model = qkv.load(tiny_gpt2)
    with pytest.raises(qkv.Error, match="only one of them"):
        model.logits([[5]], decoder_ids=[[5]])
    with pytest.raises(qkv.Error, match="no encoder"):
        model.encoder_hidden_states([[5]])
    with pytest.raises(qkv.Error, match="no encoder"):
        model.read_source([])


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("t5", {"is_encoder_decoder": False}, "without is_encoder_decoder"),
        ("t5", {"feed_forward_proj": "gated-mish"}, "'mish' is not supported"),
        ("t5", {"feed_forward_proj": "glu-gelu"}, "'glu-gelu' is not supported"),
        ("t5", {"feed_forward_proj": "gated-silu", "is_gated_act": True, "dense_act_fn": "silu"}, "wi_0"),
        ("t5", {"dense_act_fn": "gelu_new"}, "'relu' is not what dense_act_fn 'gelu_new' and is_gated_act False say"),
        ("t5", {"is_gated_act": True}, "is_gated_act True"),
        ("t5", {"num_hidden_layers": 1}, "num_hidden_layers 1 and num_layers 2 differ"),
        ("bart", {"num_attention_heads": 4}, "num_attention_heads 4 and encoder_attention_heads 3 differ"),
        ("t5", {"relative_attention_num_buckets": 3}, "3 are too few"),
        ("t5", {"relative_attention_max_distance": 16}, "16 is within the first 16 buckets"),
        ("t5", {"relative_attention_max_distance": 2**20}, "num_heads 3 times relative_attention_max_distance 1048576"),
        ("t5", {"num_heads": 2**20}, "num_heads 1048576 times relative_attention_max_distance 128 is more than"),
        ("t5", {"d_kv": 25}, r"expected shape \[75, 40\]"),
        ("t5", {"num_decoder_layers": 3}, "no tensor 'decoder.block.2"),
        ("bart", {"encoder_attention_heads": 5}, "d_model 48 is not divisible by encoder_attention_heads 5"),
        ("bart", {"is_encoder_decoder": False}, "is_encoder_decoder is false"),
        ("bart", {"normalize_before": True}, "normalize_before is true"),
        ("bart", {"add_final_layer_norm": True}, "add_final_layer_norm is true"),
        ("bart", {"static_position_embeddings": True}, "static_position_embeddings is true"),
        ("bart", {"activation_function": "mish"}, "'mish' is not supported"),
        ("bart", {"max_position_embeddings": 401}, r"expected shape \[403, 48\]"),
        ("bart-classifier", {"id2label": {"0": "a"}}, r"expected shape \[1, 48\]"),
        ("mbart", {"normalize_before": False}, "normalize_before is false"),
        ("mbart", {"normalize_embedding": False}, "normalize_embedding is false"),
        ("marian", {"normalize_embedding": True}, "normalize_embedding is true"),
        ("marian", {"static_position_embeddings": False}, "static_position_embeddings is false"),
        (
            "marian",
            {"max_position_embeddings": 2**24},
            "max_position_embeddings 16777216 times d_model 48 is more than",
        ),
        ("marian", {"decoder_vocab_size": 90}, "decoder_vocab_size 90"),
        ("marian", {"bad_words_ids": [5]}, "bad_words_ids"),
    ],
)
def test_configs_that_do_not_fit(case: str, changes: dict[str, Any], message: str, tiny, tmp_path) -> None:
    with pytest.raises(qkv.Error, match=message):
        qkv.load(edited(tiny(case), tmp_path, **changes))


@pytest.mark.parametrize(
    ("case", "rename", "message"),
    [
        ("t5", {"shared.weight": "transformer.shared.weight"}, "t5 with tensors under 'transformer'"),
        ("bart-untied", {"lm_head.weight": "qa_outputs.weight"}, "bart with tensors under 'qa_outputs'"),
        ("mbart", {"final_logits_bias": "classification_head.x"}, "mbart with tensors under 'classification_head'"),
        ("bart", {"model.shared.weight": None}, "no tensor under"),
    ],
)
def test_heads_and_tensors_that_do_not_fit(case: str, rename: dict[str, str], message: str, tiny, tmp_path) -> None:
    with pytest.raises(qkv.Error, match=message):
        qkv.load(edited(tiny(case), tmp_path, rename))


def test_t5_encoders_alone(tiny, tmp_path) -> None:
    names = load_file(tiny("t5") / "model.safetensors")
    dropped = {name: None for name in names if name.startswith("decoder.")}
    with pytest.raises(qkv.UnsupportedArchitecture, match="t5 without a decoder"):
        qkv.load(edited(tiny("t5"), tmp_path, dropped))
