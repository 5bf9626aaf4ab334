"""The options that callers give: values, conflicts and unknown names."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.generation.decoders import byte_level_bpe
from tests.generation.option_stubs import JSON, VOCAB, choose, stub, tokenizer
from tokenizers.processors import TemplateProcessing

import qkv
from qkv.generation import GenerateArguments, Options
from qkv.generation.options.arguments import NAMES
from qkv.generation.prompts import encode_prompts
from qkv.generation.sampling import SamplingParams


def test_defaults_are_those_of_the_class() -> None:
    assert dataclasses.replace(choose(), seed=0) == Options()
    assert choose().seed != choose().seed


def test_every_argument_is_an_option() -> None:
    fields = {f.name for f in dataclasses.fields(Options)} - {"sampling"}
    assert set(NAMES) == fields | {f.name for f in dataclasses.fields(SamplingParams)}
    assert GenerateArguments.__optional_keys__ == set(NAMES)
    assert all(f"{name}" in (Options.__doc__ or "") for name in NAMES)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("max_new_tokens", np.int64(3), 3),
        ("max_time", 2, 2.0),
        ("stop_strings", "x", ("x",)),
        ("stop_strings", ["x", "yz"], ("x", "yz")),
        ("eos_token_id", 5, (5,)),
        ("eos_token_id", [], ()),
        ("eos_token_id", np.array([5, 6]), (5, 6)),
        ("repetition_penalty", np.float32(0.5), 0.5),
        ("presence_penalty", 2, 2.0),
        ("bad_words_ids", [[1], (2, 3)], ((1,), (2, 3))),
        ("suppress_tokens", range(3), (0, 1, 2)),
        ("forced_bos_token_id", 7, 7),
        ("forced_eos_token_id", [9, 8], 8),
        ("logit_bias", {np.int32(3): 1, 4: -np.inf}, {3: 1.0, 4: -np.inf}),
        ("logits_processor", max, (max,)),
        ("logits_processor", [max, min], (max, min)),
        ("return_alternatives", np.True_, True),
        ("penalty_alpha", 0, None),
        ("logprobs", 0, 0),
        ("truncate", "left", "left"),
        ("seed", 2**64 - 1, 2**64 - 1),
    ],
)
def test_values_become_plain(name: str, value: Any, expected: Any) -> None:
    chosen = getattr(choose(**{name: value}), name)
    assert chosen == expected
    assert type(chosen) is type(expected)


BEAMS: dict[str, Any] = {"num_beams": 4}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_new_tokens": 0}, "max_new_tokens is 0; expected an integer >= 1"),
    ({"max_new_tokens": 2.0}, "max_new_tokens is 2.0; expected an integer"),
    ({"max_new_tokens": True}, "max_new_tokens is True; expected an integer"),
    ({"max_new_tokens": 2**31}, "max_new_tokens is 2147483648"),
    ({"max_length": "9"}, "max_length is '9'"),
    ({"min_new_tokens": -1}, "min_new_tokens is -1; expected an integer >= 0"),
    ({"max_time": 0}, "max_time is 0; expected a number of seconds > 0"),
    ({"max_time": float("inf")}, "max_time is inf"),
    ({"max_time": 10**400}, "max_time is 1000"),
    ({"stop_strings": [""]}, r"stop_strings is \[''\]; expected texts of at least one character"),
    ({"stop_strings": {"x": 1}}, "stop_strings is {'x': 1}"),
    ({"eos_token_id": VOCAB}, "eos_token_id holds token id 60000; expected 0 to 59999"),
    ({"eos_token_id": "</s>"}, "eos_token_id is '</s>'; expected a token id or a list of token ids"),
    ({"eos_token_id": True}, "eos_token_id is True"),
    ({"do_sample": 1}, "do_sample is 1; expected True or False"),
    ({"repetition_penalty": 0}, "repetition_penalty is 0; expected a number > 0"),
    ({"repetition_penalty": -1.5}, "repetition_penalty is -1.5"),
    ({"encoder_repetition_penalty": float("nan")}, "encoder_repetition_penalty is nan"),
    ({"presence_penalty": -0.1}, "presence_penalty is -0.1; expected a number from 0 to 2"),
    ({"frequency_penalty": 2.1}, "frequency_penalty is 2.1; expected a number from 0 to 2"),
    ({"no_repeat_ngram_size": -2}, "no_repeat_ngram_size is -2; expected an integer >= 0"),
    ({"encoder_no_repeat_ngram_size": -2}, "encoder_no_repeat_ngram_size is -2"),
    ({"bad_words_ids": [[]]}, "bad_words_ids is .*expected lists of token ids"),
    ({"bad_words_ids": [5]}, "bad_words_ids is"),
    ({"bad_words_ids": [[5, -1]]}, "bad_words_ids holds token id -1"),
    ({"suppress_tokens": 5}, "suppress_tokens is 5; expected a list of token ids"),
    ({"begin_suppress_tokens": [1.0]}, "begin_suppress_tokens is"),
    ({"forced_bos_token_id": -1}, "forced_bos_token_id holds token id -1"),
    ({"logit_bias": [1, 2]}, "logit_bias is .*expected a mapping from token ids to numbers"),
    ({"logit_bias": {"5": 1}}, "logit_bias is"),
    ({"logit_bias": {5: float("inf")}}, "logit_bias is"),
    ({"logit_bias": {VOCAB: 1}}, "logit_bias holds token id 60000"),
    ({"logits_processor": 5}, "logits_processor is 5; expected a function"),
    ({"num_beams": 0}, "num_beams is 0"),
    ({"num_beams": 4, "early_stopping": "always"}, "early_stopping is 'always'; expected True, False or 'never'"),
    ({"num_beams": 4, "length_penalty": float("inf")}, "length_penalty is inf"),
    ({"num_beams": 4, "diversity_penalty": -1}, "diversity_penalty is -1"),
    ({"penalty_alpha": 1.5}, "penalty_alpha is 1.5; expected a number from 0 to 1"),
    ({"assistant_model": "gpt2"}, "assistant_model is 'gpt2'; expected a model that qkv.load opened"),
    ({"logprobs": 21}, "logprobs is 21; expected an integer from 0 to 20"),
    ({"logprobs": True}, "logprobs is True"),
    ({"seed": -1}, "seed is -1"),
    ({"truncate": "right"}, "truncate is 'right'; expected 'left' or None"),
    ({"prefix": "\ud800"}, "prefix is .*expected a text or a list of token ids"),
    ({"prefix": [1, 2]}, r"prefix is \(1, 2\); without an encoder it belongs to the prompt"),
    ({"do_sample": True, "temperature": 0}, "temperature is 0; .*do_sample=False"),
    ({"do_sample": True, "top_k": 10**30}, "top_k is 1000"),
    ({"do_sample": True, "top_p": 0.0}, "top_p is 0.0"),
    ({"top_p": 0.5}, "top_p given, but do_sample is False"),
    # Together:
    ({"max_new_tokens": 5, "max_length": 9}, "max_new_tokens and max_length are both given"),
    ({"min_new_tokens": 5, "min_length": 9}, "min_new_tokens and min_length are both given"),
    ({"min_new_tokens": 6, "max_new_tokens": 5}, "min_new_tokens is 6; expected at most max_new_tokens, 5"),
    ({"min_length": 6, "max_length": 5}, "min_length is 6; expected at most max_length, 5"),
    ({"length_penalty": 2.0}, "length_penalty is 2.0; it is about beams"),
    ({"early_stopping": True}, "early_stopping is True; it is about beams"),
    ({"num_beam_groups": 2}, "num_beam_groups is 2; it is about beams"),
    (BEAMS | {"num_beam_groups": 3}, "num_beam_groups is 3; expected a divisor of num_beams, 4"),
    (BEAMS | {"diversity_penalty": 0.5}, "diversity_penalty is 0.5; it keeps groups of beams apart"),
    (BEAMS | {"num_beam_groups": 2, "do_sample": True}, "num_beam_groups is 2; .*do_sample is True"),
    (BEAMS | {"num_return_sequences": 5}, "num_return_sequences is 5; .*num_beams is 4"),
    ({"num_return_sequences": 2}, "num_return_sequences is 2; greedy decoding finds one text"),
    ({"num_return_sequences": 2, "penalty_alpha": 0.5}, "num_return_sequences is 2; contrastive search finds one"),
    ({"return_alternatives": True, "do_sample": True}, "return_alternatives is True; .*do_sample is True"),
    ({"return_alternatives": True} | BEAMS, "return_alternatives is True; .*num_beams is 4"),
    ({"return_alternatives": True, "penalty_alpha": 0.5}, "return_alternatives is True; .*penalty_alpha is 0.5"),
    ({"penalty_alpha": 0.5} | BEAMS, "penalty_alpha is 0.5; .*num_beams is 4"),
    ({"penalty_alpha": 0.5, "do_sample": True}, "penalty_alpha is 0.5; .*do_sample is True"),
    ({"penalty_alpha": 0.5, "top_k": 1}, "penalty_alpha is 0.5; .*top_k >= 2 tokens, but top_k is 1"),
    ({"prompt_lookup_num_tokens": 5} | BEAMS, "prompt_lookup_num_tokens is 5; .*num_beams is 4"),
    ({"prompt_lookup_num_tokens": 5, "penalty_alpha": 0.5}, "prompt_lookup_num_tokens is 5; .*penalty_alpha"),
    (
        {"prompt_lookup_num_tokens": 5, "do_sample": True, "num_return_sequences": 2},
        "prompt_lookup_num_tokens is 5; .*num_return_sequences is 2",
    ),
    ({"max_matching_ngram_size": 4}, "max_matching_ngram_size is 4; it needs prompt_lookup_num_tokens"),
    ({"num_assistant_tokens": 3}, "num_assistant_tokens is 3; it needs assistant_model"),
    ({"streaming": True} | BEAMS, "num_beams is 4, but streaming .*num_beams=1"),
    ({"streaming": True, "penalty_alpha": 0.5}, "penalty_alpha is 0.5, but streaming"),
    ({"streaming": True, "do_sample": True, "num_return_sequences": 2}, "num_return_sequences is 2; streaming"),
    ({"streaming": True, "single": False}, "streaming takes a single prompt"),
    ({"state": object()}, "expected the state of a generation"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=lambda x: x[:30] if isinstance(x, str) else "")
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(qkv.Error, match=message):
        choose(**options)


@pytest.mark.parametrize(
    "options",
    [
        {
            "num_beams": 1,
            "length_penalty": 1.0,
            "early_stopping": False,
            "num_beam_groups": 1,
            "diversity_penalty": 0.0,
        },
        BEAMS | {"length_penalty": -1.0, "early_stopping": "never", "num_return_sequences": 4},
        BEAMS | {"num_beam_groups": 2, "diversity_penalty": 0.5},
        BEAMS | {"do_sample": True, "top_p": 0.5},
        {"do_sample": True, "num_return_sequences": 30},
        {"num_return_sequences": 3, "return_alternatives": True},
        {"prompt_lookup_num_tokens": 5, "max_matching_ngram_size": 3, "do_sample": True, "streaming": True},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"min_new_tokens": 5, "max_new_tokens": 5},
        {"min_length": 50, "max_new_tokens": 5},
    ],
)
def test_accepted(options: dict[str, Any]) -> None:
    chosen = choose(**options)
    plain = {k: v for k, v in options.items() if k in vars(chosen)}
    assert {name: getattr(chosen, name) for name in plain} == plain


def test_top_k_is_of_contrastive_search_or_of_sampling() -> None:
    assert choose(penalty_alpha=0.6).top_k == 50
    assert choose({"top_k": 4}, penalty_alpha=0.6).top_k == 4
    assert choose({"top_k": 4, "penalty_alpha": 0.6}).penalty_alpha == 0.6
    sampled = choose({"penalty_alpha": 0.6}, do_sample=True, top_k=7)
    assert (sampled.penalty_alpha, sampled.top_k, sampled.sampling) == (None, None, SamplingParams(top_k=7))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("num_beam", "num_beams"), ("temprature", "temperature"), ("frequency_penality", "frequency_penalty"),
        ("max_tokens", "max_new_tokens"), ("num_predict", "max_new_tokens"), ("stop", "stop_strings"),
        ("n", "num_return_sequences"), ("temp", "temperature"), ("repeat_penalty", "repetition_penalty"),
        ("topk", "top_k"), ("no_repeat_ngram", "no_repeat_ngram_size"), ("beam_size", "num_beams"),
    ],
)  # fmt: skip
def test_unknown_names(name: str, meant: str) -> None:
    with pytest.raises(qkv.Error, match=f"there is no option '{name}'; did you mean {meant}\\?"):
        choose(**{name: 1})


def test_names_that_mean_nothing() -> None:
    with pytest.raises(qkv.Error, match="no option 'pad_token_id': nothing is padded here; leave it out"):
        choose(pad_token_id=0)
    with pytest.raises(qkv.Error, match=r"no option 'xyzzy'; .*qkv\.generation\.Options"):
        choose(xyzzy=0)


def test_limit() -> None:
    assert choose(max_new_tokens=50).limit(10, None) == 50
    assert choose(max_new_tokens=50).limit(10, 40) == 30
    assert choose(max_length=50).limit(10, None) == 40
    assert choose(max_length=50).limit(49, 100) == 1
    with pytest.raises(qkv.Error, match="max_length is 50, but the decoder starts from 50 tokens already"):
        choose(max_length=50).limit(50, 100)
    with pytest.raises(qkv.Error, match="starts from 40 tokens, and its context is 40"):
        choose(max_new_tokens=50).limit(40, 40)


@pytest.mark.parametrize(
    ("options", "context", "longest"),
    [
        ({}, 100, None),
        ({"truncate": "left", "max_new_tokens": 30}, 100, 70),
        ({"truncate": "left", "max_new_tokens": 300}, 100, 1),
        ({"truncate": "left", "max_new_tokens": 30}, None, None),
        ({"truncate": "left", "max_length": 1000}, 4096, 872),
        ({"truncate": "left", "max_length": 100}, 4096, 50),
        ({"truncate": "left", "max_length": 4096}, 100, 50),
    ],
)
def test_longest_prompt(options: dict[str, Any], context: int | None, longest: int | None) -> None:
    assert choose(**options).longest_prompt(context, encoder=False) == longest
    assert choose(**options).longest_prompt(context, encoder=True) == (context if options else None)


def test_prompts_that_are_cut(model: qkv.Model) -> None:
    with pytest.raises(qkv.Error, match=r"prompt 1 has 640 tokens.*truncate='left'"):
        encode_prompts(model, [[5], [5] * 640])
    assert encode_prompts(model, [[5], list(range(300)) * 3], longest=3) == [[5], [297, 298, 299]]


def test_special_tokens_outlive_a_cut() -> None:
    bpe = byte_level_bpe()
    ids = bpe.encode("To be, or not to be").ids
    bpe.post_processor = TemplateProcessing(single="<|end|> $A <|end|>", special_tokens=[("<|end|>", 0)])
    model = stub(tokenizer=bpe, encoder=True)
    model.context_length = 5
    assert encode_prompts(model, "To be, or not to be", longest=5) == [[0, *ids[-3:], 0]]
    assert encode_prompts(model, "To be, or not to be", longest=1) == [[0]]
    with pytest.raises(qkv.Error, match=r"encoder reads at most 5: .*truncate='left'"):
        encode_prompts(model, "To be, or not to be")


def test_prefixes() -> None:
    reader = stub(encoder=True, tokenizer=tokenizer())
    assert Options.choose(reader, {"prefix": [3, 4]}).prefix == (3, 4)
    assert Options.choose(reader, {"prefix": "To be"}).prefix == tuple(tokenizer().encode("To be").ids)
    with pytest.raises(qkv.Error, match="prefix is text, but the checkpoint has no tokenizer"):
        Options.choose(stub(encoder=True), {"prefix": "To be"})


def test_stop_strings_without_a_tokenizer() -> None:
    with pytest.raises(qkv.Error, match=r"stop_strings is .*no tokenizer"):
        Options.choose(stub(), {"stop_strings": "x"})
    assert Options.choose(stub({"stop_strings": ["x"]}), {}).stop_strings == ()


def test_assistants(model: qkv.Model) -> None:
    assert Options.choose(stub(vocab=400), {"assistant_model": model}).assistant_model is model
    with pytest.raises(qkv.Error, match="vocabulary of 400 tokens, the model one of 60000"):
        Options.choose(stub(), {"assistant_model": model})
    with pytest.raises(qkv.Error, match="neither model may have an encoder"):
        Options.choose(stub(vocab=400, encoder=True), {"assistant_model": model})
    with pytest.raises(qkv.Error, match="prompt_lookup_num_tokens is 3; an assistant_model guesses tokens, too"):
        Options.choose(stub(vocab=400), {"assistant_model": model, "prompt_lookup_num_tokens": 3})


@given(options=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4))
@settings(deadline=None, max_examples=400)
def test_any_argument_works_or_is_refused(options: dict[str, Any]) -> None:
    try:
        chosen = Options.choose(stub(), options)
    except qkv.Error:
        return
    for name, value in options.items():
        if name in ("max_new_tokens", "num_beams", "repetition_penalty", "logprobs") and value is not None:
            assert getattr(chosen, name) == value
