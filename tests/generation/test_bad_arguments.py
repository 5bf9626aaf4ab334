"""What generate says to arguments and models that it cannot work with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qkv


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ("a", {"max_new_tokens": 0}, "max_new_tokens is 0; expected an integer >= 1"),
        ("a", {"max_new_tokens": 2.0}, "max_new_tokens is 2.0"),
        ("a", {"max_new_tokens": True}, "max_new_tokens is True"),
        ("a", {"stop_strings": [""]}, r"stop_strings is \[''\]; expected texts of at least one character"),
        ("a", {"stop_strings": ["x", 3]}, "stop_strings is .*3"),
        ("a", {"stop_strings": 5}, "stop_strings is 5"),
        ("a", {"streamer": 3}, "streamer is 3; expected a function"),
        ("a", {"streamer": print, "stream": True}, "exclude each other"),
        ([5, 400], {}, "the prompt holds token id 400; expected 0 to 399"),
        ([[5], [-1]], {}, "prompt 1 holds token id -1"),
        ([[5], 5], {}, "prompt 1 is int 5; expected text or a list of token ids"),
        ([[5.5]], {}, "prompt 0 is list"),
        ([[[5]]], {}, "prompt 0 is list"),
        ([[5, [6]]], {}, "prompt 0 is list"),
        ([True], {}, "the prompt is list"),
        ([[2**70]], {}, "prompt 0 is list"),
        (["a", None], {}, "prompt 1 is NoneType None"),
        (5, {}, "prompts is 5; expected"),
        (None, {}, "prompts is None; expected"),
        (b"bytes", {}, "prompts is b'bytes'; expected"),
        ("\ud800", {}, "not valid Unicode"),
        ([5] * 641, {}, "641 tokens.*context is 640 tokens"),
        ([[5], [5] * 640], {}, "prompt 1 has 640 tokens.*no room"),
    ],
)
def test_bad_arguments(model: qkv.Model, prompts: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(qkv.Error, match=message):
        model.generate(prompts, **options)


def test_errors_come_before_the_stream_is_read(model: qkv.Model) -> None:
    with pytest.raises(qkv.Error, match="token id 400"):
        model.generate([400], stream=True)


def test_unknown_option(model: qkv.Model) -> None:
    with pytest.raises(qkv.Error, match=r"num_beam.*num_beams"):
        model.generate("a", num_beam=4)


def test_empty_prompt_starts_from_bos(model: qkv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "generation_config", {"bos_token_id": 3})
    expected = model.generate([3], max_new_tokens=5)
    assert model.generate("", max_new_tokens=5) == expected
    assert model.generate([[]], max_new_tokens=5) == [expected]
    assert model.generate(np.empty(0, np.int32).reshape(1, 0), max_new_tokens=5) == [expected]


@pytest.mark.parametrize("bos", [None, 400, "<s>"])
def test_empty_prompt_without_bos(model: qkv.Model, monkeypatch: pytest.MonkeyPatch, bos: Any) -> None:
    monkeypatch.setattr(model, "generation_config", {"bos_token_id": bos})
    monkeypatch.setattr(model.config, "bos_token_id", None)
    with pytest.raises(qkv.Error, match="the prompt is empty, and the model has no beginning-of-sequence"):
        model.generate("")


@pytest.mark.parametrize("eos", ["</s>", [1, None], 2.0, True])
def test_bad_end_of_sequence_token(model: qkv.Model, monkeypatch: pytest.MonkeyPatch, eos: Any) -> None:
    monkeypatch.setattr(model, "generation_config", {"eos_token_id": eos})
    with pytest.raises(qkv.Error, match="eos_token_id"):
        model.generate([5])


def test_without_a_tokenizer(model: qkv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model.generate([5], max_new_tokens=5)
    monkeypatch.setattr(model, "tokenizer", None)
    made = model.generate([5], max_new_tokens=5)
    assert made.token_ids == whole.token_ids
    assert made.text == ""
    for prompt, options in [("a", {}), ([5], {"stream": True}), ([5], {"stop_strings": "x"})]:
        with pytest.raises(qkv.Error, match=r"no tokenizer"):
            model.generate(prompt, **options)
