"""sentence_modules: what old and new sentence-transformers write, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers.sentence_transformer.modules import Pooling

from qkv.checkpoint import Checkpoint, SentenceModules, sentence_modules
from qkv.errors import CheckpointError, UnsupportedArchitecture

SaveJson = Callable[[Path, Any], Path]

OLD = "sentence_transformers.models."
TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": OLD + "Transformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": OLD + "Pooling"}
NORMALIZE = {"idx": 2, "name": "2", "path": "2_Normalize", "type": OLD + "Normalize"}


@pytest.fixture
def read(single: Path, save_json: SaveJson) -> Callable[..., SentenceModules]:
    """Write modules.json and a pooling config, and read them back."""

    def read(modules: Any, pooling: Any = None, **files: Any) -> SentenceModules:
        save_json(single / "modules.json", modules)
        if pooling is not None:
            save_json(single / "1_Pooling" / "config.json", pooling)
        for name, value in files.items():
            save_json(single / f"{name}.json", value)
        with Checkpoint.open(single) as checkpoint:
            return sentence_modules(checkpoint)

    return read


def test_without_modules_json(single: Path) -> None:
    with Checkpoint.open(single) as checkpoint:
        assert sentence_modules(checkpoint) == SentenceModules("mean", False, None, False)


@pytest.mark.parametrize(
    ("key", "mode"),
    [
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_lasttoken", "lasttoken"),
    ],
)
def test_boolean_keys(read: Callable[..., SentenceModules], key: str, mode: str) -> None:
    booleans = dict.fromkeys(("pooling_mode_cls_token", "pooling_mode_mean_tokens"), False)
    pooling = {"word_embedding_dimension": 8, **booleans, key: True}
    assert read([TRANSFORMER, POOLING], pooling).pooling == mode


@pytest.mark.parametrize(
    ("pooling", "mode"),
    [
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["lasttoken"]}, "lasttoken"),
        ({"pooling_mode": "max", "pooling_mode_mean_tokens": True}, "max"),
        ({"pooling_mode_mean_tokens": False}, "mean"),
        ({}, "mean"),
    ],
)
def test_pooling_key(read: Callable[..., SentenceModules], pooling: dict[str, Any], mode: str) -> None:
    assert read([TRANSFORMER, POOLING], pooling).pooling == mode


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "lasttoken"])
def test_what_sentence_transformers_writes(single: Path, save_json: SaveJson, mode: Any) -> None:
    module = Pooling(8, pooling_mode=mode)
    (single / "1_Pooling").mkdir()
    module.save(str(single / "1_Pooling"))
    save_json(single / "modules.json", [TRANSFORMER, {**POOLING, "type": f"{Pooling.__module__}.Pooling"}])
    with Checkpoint.open(single) as checkpoint:
        assert sentence_modules(checkpoint) == SentenceModules(mode)


def test_normalize(read: Callable[..., SentenceModules]) -> None:
    new = {**NORMALIZE, "type": "sentence_transformers.base.modules.normalize.Normalize"}
    assert not read([TRANSFORMER, POOLING], {}).normalize
    assert read([TRANSFORMER, POOLING, NORMALIZE], {}).normalize
    assert read([TRANSFORMER, POOLING, new], {}).normalize


@pytest.mark.parametrize(
    ("files", "length"),
    [
        ({}, None),
        ({"sentence_bert_config": {"max_seq_length": 256}}, 256),
        ({"sentence_xlm-roberta_config": {"max_seq_length": 64}}, 64),
        ({"sentence_bert_config": {"max_seq_length": None}}, None),
        ({"tokenizer_config": {"model_max_length": 128}}, 128),
        ({"tokenizer_config": {"model_max_length": 10**30}}, None),
        ({"tokenizer_config": {"model_max_length": 1e30}}, None),
        (
            {"sentence_bert_config": {"max_seq_length": 256}, "tokenizer_config": {"model_max_length": 512}},
            256,
        ),
    ],
)
def test_max_seq_length(read: Callable[..., SentenceModules], files: dict[str, Any], length: int | None) -> None:
    assert read([TRANSFORMER, POOLING], {}, **files).max_seq_length == length


def test_do_lower_case(read: Callable[..., SentenceModules]) -> None:
    files = {"sentence_bert_config": {"max_seq_length": 8, "do_lower_case": True}}
    assert read([TRANSFORMER, POOLING], {}, **files) == SentenceModules("mean", False, 8, True)


DENSE = {"path": "2_Dense", "type": OLD + "Dense"}


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([TRANSFORMER, POOLING, DENSE], "'sentence_transformers.models.Dense' is not supported"),
        ([{**TRANSFORMER, "type": "custom_st.Transformer"}, POOLING], "'custom_st.Transformer'"),
        ([{**TRANSFORMER, "type": "Transformer"}, POOLING], "'Transformer' is not supported"),
        ([TRANSFORMER], "Transformer are not supported in this order"),
        ([], r"\(none\)"),
        ([POOLING, TRANSFORMER], "Pooling, Transformer"),
        ([TRANSFORMER, NORMALIZE, POOLING], "Transformer, Normalize, Pooling"),
        ([TRANSFORMER, POOLING, NORMALIZE, NORMALIZE], "Normalize, Normalize"),
        ([{**TRANSFORMER, "path": "0_BERT"}, POOLING], "lies in the folder '0_BERT'"),
    ],
)
def test_unsupported_modules(read: Callable[..., SentenceModules], modules: Any, message: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=rf"modules\.json: .*{message}"):
        read(modules, {})


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        ({"pooling_mode": "weightedmean"}, "pooling by weightedmean is not supported"),
        ({"pooling_mode": ["cls", "mean"]}, r"pooling by cls \+ mean"),
        ({"pooling_mode": []}, "pooling by"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean_sqrt_len_tokens"),
        ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, r"cls \+ max"),
        ({"pooling_mode": "mean", "include_prompt": False}, "include_prompt"),
    ],
)
def test_unsupported_pooling(read: Callable[..., SentenceModules], pooling: Any, message: str) -> None:
    with pytest.raises(UnsupportedArchitecture, match=rf"1_Pooling/config\.json: .*{message}"):
        read([TRANSFORMER, POOLING], pooling)


def test_token_normalisation_is_unsupported(
    read: Callable[..., SentenceModules], single: Path, save_json: SaveJson
) -> None:
    save_json(single / "2_Normalize" / "config.json", {"module_input_name": "token_embeddings"})
    with pytest.raises(UnsupportedArchitecture, match="normalising 'token_embeddings'"):
        read([TRANSFORMER, POOLING, NORMALIZE], {})


@pytest.mark.parametrize("modules", ["{", {}, {"0": TRANSFORMER}, [1], [{"type": "x"}], [{**POOLING, "path": 1}]])
def test_modules_json_of_the_wrong_form(read: Callable[..., SentenceModules], modules: Any) -> None:
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        read(modules)


@pytest.mark.parametrize("path", ["../1_Pooling", "/etc", "..", "a/../../b", ""])
def test_module_paths_stay_inside(read: Callable[..., SentenceModules], single: Path, path: str) -> None:
    with pytest.raises(CheckpointError, match="not the name of a file inside"):
        read([TRANSFORMER, {**POOLING, "path": path}])


def test_module_links_stay_inside(read: Callable[..., SentenceModules], single: Path, save_json: SaveJson) -> None:
    save_json(single.parent / "1_Pooling" / "config.json", {"pooling_mode": "cls"})
    (single / "1_Pooling").symlink_to("../1_Pooling")
    with pytest.raises(CheckpointError, match="outside the checkpoint folder"):
        read([TRANSFORMER, POOLING])


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        (None, r"1_Pooling/config\.json is missing"),
        ("{", "not valid JSON"),
        ([], "holds a list"),
        ({"pooling_mode": 1}, "pooling_mode is 1; expected a string"),
        ({"pooling_mode_cls_token": "yes"}, "pooling_mode_cls_token is 'yes'; expected true or false"),
    ],
)
def test_broken_pooling(read: Callable[..., SentenceModules], pooling: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read([TRANSFORMER, POOLING], pooling)


def test_broken_max_seq_length(read: Callable[..., SentenceModules]) -> None:
    with pytest.raises(CheckpointError, match=r"sentence_bert_config\.json: max_seq_length is '256'"):
        read([TRANSFORMER, POOLING], {}, sentence_bert_config={"max_seq_length": "256"})
