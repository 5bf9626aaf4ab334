"""The options that checkpoints recommend, in generation_config.json or an older config.json."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.generation.option_stubs import JSON, VOCAB, choose, stub

import qkv
from qkv.generation import Options
from qkv.generation.options.checkpoint import RECOMMENDED
from qkv.generation.sampling import SamplingParams

# generation_config.json of facebook/bart-large-cnn, Helsinki-NLP/opus-mt-en-de, meta-llama/Meta-Llama-3-8B-Instruct and
# google-t5/t5-small.
FILES: dict[str, dict[str, Any]] = {
    "bart-large-cnn": {
        "_from_model_config": True, "bos_token_id": 0, "decoder_start_token_id": 2, "early_stopping": True,
        "eos_token_id": 2, "forced_bos_token_id": 0, "forced_eos_token_id": 2, "length_penalty": 2.0,
        "max_length": 142, "min_length": 56, "no_repeat_ngram_size": 3, "num_beams": 4, "pad_token_id": 1,
        "transformers_version": "4.31.0.dev0",
    },
    "opus-mt-en-de": {
        "bad_words_ids": [[58100]], "bos_token_id": 0, "decoder_start_token_id": 58100, "eos_token_id": 0,
        "forced_eos_token_id": 0, "max_length": 512, "num_beams": 6, "pad_token_id": 58100,
        "transformers_version": "4.20.0.dev0",
    },
    "llama-3-instruct": {
        "bos_token_id": 128000, "eos_token_id": [128001, 128009], "do_sample": True, "temperature": 0.6,
        "max_length": 4096, "top_p": 0.9, "transformers_version": "4.40.0.dev0",
    },
    "t5-small": {
        "_from_model_config": True, "decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0,
        "transformers_version": "4.27.0.dev0",
    },
}  # fmt: skip


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("call", [{}, {"num_beams": 2, "do_sample": False}, {"do_sample": True, "num_beams": 1}])
def test_real_files_mean_what_they_mean_to_transformers(file: str, call: dict[str, Any]) -> None:
    """The values that `generate` of transformers comes to, of all options that it has."""
    theirs = transformers.GenerationConfig(**call)
    theirs.update(**transformers.GenerationConfig(**FILES[file]).to_dict(), defaults_only=True)
    theirs.update(**transformers.GenerationConfig._get_default_generation_params(), defaults_only=True)
    ours = Options.choose(stub(FILES[file], vocab=130_000, encoder=file != "llama-3-instruct"), call)
    differ = {"max_length", "max_new_tokens"}  # 20 there, 128 new tokens here
    if ours.num_beams == 1:
        differ |= {"length_penalty", "early_stopping"}  # mean nothing
    for name in set(RECOMMENDED) - differ - {"logit_bias", "num_assistant_tokens", "max_matching_ngram_size"}:
        mine, other = getattr(ours, name), getattr(theirs, name)
        if name == "eos_token_id":
            other = [other] if isinstance(other, int) else other
        if isinstance(mine, tuple):
            mine = [list(x) if isinstance(x, tuple) else x for x in mine]
        assert (mine or None) == (other or None), name
    assert ours.max_length == FILES[file].get("max_length")
    assert ours.max_new_tokens == (None if ours.max_length else 128)
    assert (ours.sampling is not None) == theirs.do_sample
    if ours.sampling:
        assert (ours.sampling.temperature, ours.sampling.top_p) == (theirs.temperature, theirs.top_p)


def test_the_checkpoint_gives_way_to_the_caller() -> None:
    bart = FILES["bart-large-cnn"]
    greedy = choose(bart, num_beams=1)
    assert (greedy.num_beams, greedy.length_penalty, greedy.early_stopping) == (1, 1.0, False)
    assert choose({"num_beams": 4, "num_return_sequences": 4}, num_beams=2).num_return_sequences == 1
    assert choose({"num_beam_groups": 2, "num_beams": 4}, num_beams=3).num_beam_groups == 1
    assert choose({"prompt_lookup_num_tokens": 5}, num_beams=3).prompt_lookup_num_tokens is None
    assert choose({"do_sample": True, "temperature": 0.5, "top_k": "all"}, do_sample=False).sampling is None
    assert choose({"do_sample": True, "temperature": 0.5}, temperature=2.0).sampling == SamplingParams(2.0)
    assert choose({"forced_eos_token_id": 2, "eos_token_id": 2}, forced_eos_token_id=None).forced_eos_token_id is None
    assert choose({"do_sample": True, "temperature": 0.5}, temperature=None).sampling == SamplingParams()


def test_methods_of_the_checkpoint_do_not() -> None:
    """Another method is another text: where it does not go with the caller's options, they are told whose it is."""
    for options in ({"streaming": True}, {"penalty_alpha": 0.5}, {"prompt_lookup_num_tokens": 5}):
        with pytest.raises(qkv.Error, match=r"num_beams is 4 in generation_config\.json"):
            choose(FILES["bart-large-cnn"], **options)
        assert choose(FILES["bart-large-cnn"], num_beams=1, **options).num_beams == 1
    with pytest.raises(qkv.Error, match=r"do_sample is True in generation_config\.json"):
        choose(FILES["llama-3-instruct"], penalty_alpha=0.5)


@pytest.mark.parametrize(
    ("file", "options", "new", "whole"),
    [
        ({}, {}, 128, None),
        ({"max_length": 20}, {}, 128, None),
        ({"max_length": 20}, {"max_length": 20}, None, 20),
        ({"max_length": 30}, {}, None, 30),
        ({"max_length": 30}, {"max_new_tokens": 5}, 5, None),
        ({"max_length": 30, "max_new_tokens": 7}, {}, 7, None),
        ({"max_new_tokens": 7}, {"max_length": 9}, None, 9),
        ({"max_new_tokens": 7}, {"max_new_tokens": None}, 128, None),
    ],
)
def test_lengths(file: dict[str, Any], options: dict[str, Any], new: int | None, whole: int | None) -> None:
    chosen = choose(file, **options)
    assert (chosen.max_new_tokens, chosen.max_length) == (new, whole)


def test_shortest_lengths() -> None:
    chosen = choose({"min_length": 30}, min_new_tokens=3)
    assert (chosen.min_new_tokens, chosen.min_length) == (3, 0)
    chosen = choose({"min_new_tokens": 30}, min_length=3)
    assert (chosen.min_new_tokens, chosen.min_length) == (0, 3)


def test_tokens_that_the_checkpoint_does_not_have() -> None:
    file = {
        "eos_token_id": [1, VOCAB], "bad_words_ids": [[1], [2], [3, VOCAB], [4, 5]], "suppress_tokens": [-1, 7],
        "forced_bos_token_id": VOCAB, "forced_eos_token_id": [VOCAB, 9, 8],
        "sequence_bias": [[[5], 1.5], [[VOCAB], 1.0]],
    }  # fmt: skip
    chosen = choose(file)
    assert chosen.eos_token_id == (1,)
    assert chosen.bad_words_ids == ((2,), (4, 5)), "an end token alone is no bad word, as in transformers"
    assert chosen.suppress_tokens == (7,)
    assert (chosen.forced_bos_token_id, chosen.forced_eos_token_id) == (None, 8)
    assert chosen.logit_bias == {5: 1.5}


@pytest.mark.parametrize("file", [{"num_beams": "4"}, {"eos_token_id": [1, None]}, {"no_repeat_ngram_size": -1}])
def test_bad_files(file: dict[str, Any]) -> None:
    (name,) = file
    with pytest.raises(qkv.CheckpointError, match=rf"generation_config\.json: {name} is "):
        choose(file)
    choose(file, **{name: 1})  # the caller's value counts


IN_FILES = st.sampled_from([*RECOMMENDED, "sequence_bias", "temperature", "top_k", "top_p", "min_p", "typical_p"])


@given(file=st.dictionaries(IN_FILES, JSON, max_size=6), sample=st.none() | st.booleans())
@settings(deadline=None, max_examples=400)
def test_any_file_works_or_is_refused(file: dict[str, Any], sample: bool | None) -> None:
    try:
        chosen = Options.choose(stub(file), {} if sample is None else {"do_sample": sample})
    except qkv.Error:
        return
    if chosen.sampling:
        chosen.sampling.filters()
    assert chosen.max_length == 1 or 1 <= chosen.limit(1, 8) <= 7


METHODS: dict[str, st.SearchStrategy[Any]] = {
    "num_beams": st.integers(1, 4),
    "num_beam_groups": st.integers(1, 4),
    "diversity_penalty": st.sampled_from([0.0, 0.5]),
    "length_penalty": st.sampled_from([1.0, 2.0]),
    "do_sample": st.booleans(),
    "penalty_alpha": st.sampled_from([None, 0.5]),
    "num_return_sequences": st.integers(1, 4),
    "prompt_lookup_num_tokens": st.integers(1, 3),
    "max_length": st.integers(1, 30),
    "max_new_tokens": st.integers(1, 30),
    "top_k": st.integers(0, 3),
}


@given(file=st.fixed_dictionaries({}, optional=METHODS))
@settings(deadline=None)
def test_a_file_is_never_at_odds_with_itself(file: dict[str, Any]) -> None:
    Options.choose(stub(file), {})


@given(
    file=st.fixed_dictionaries({}, optional=METHODS),
    said=st.fixed_dictionaries({}, optional=METHODS | {"return_alternatives": st.booleans()}),
    streaming=st.booleans(),
)
@settings(deadline=None, max_examples=400)
def test_options_always_go_together(file: dict[str, Any], said: dict[str, Any], streaming: bool) -> None:
    try:
        o = Options.choose(stub(file), said, streaming=streaming)
    except qkv.Error:
        return
    assert {name: getattr(o, name) for name in said if name != "top_k"} == {
        k: v for k, v in said.items() if k != "top_k"
    }
    assert o.num_beams % o.num_beam_groups == 0
    assert o.num_beams > 1 or (o.diversity_penalty, o.length_penalty) == (0, 1)
    assert o.num_beam_groups == 1 or not o.do_sample
    assert o.num_beam_groups > 1 or o.diversity_penalty == 0
    sampled_or_beams = o.do_sample or o.num_beams > 1
    assert not (sampled_or_beams and (o.penalty_alpha or o.return_alternatives))
    assert o.num_beams == 1 or o.num_return_sequences <= o.num_beams
    assert o.num_return_sequences == 1 or sampled_or_beams or o.return_alternatives
    assert not o.prompt_lookup_num_tokens or (o.streamable and not o.return_alternatives)
    assert o.streamable or not streaming
    assert (o.sampling is not None) == o.do_sample
    assert (o.top_k is not None) == (o.penalty_alpha is not None)
    assert (o.max_new_tokens is None) != (o.max_length is None)


def opened(folder: Path, file: dict[str, Any] | None, config: dict[str, Any]) -> qkv.Model:
    """A checkpoint with this generation_config.json, if any, and this in its config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    (folder / "generation_config.json").unlink(missing_ok=True)
    if file is not None:
        (folder / "generation_config.json").write_text(json.dumps(file))
    return qkv.load(folder)


def test_older_checkpoints(tiny: Any, tmp_path: Path) -> None:
    """Without generation_config.json all of it is in config.json, as transformers reads it; with it nothing is."""
    folder = shutil.copytree(tiny("bart"), tmp_path / "copy")
    said = {"num_beams": 3, "length_penalty": 2.0, "no_repeat_ngram_size": 2, "forced_bos_token_id": 4, "max_length": 9}
    old = Options.choose(opened(folder, None, said), {})
    theirs = transformers.BartForConditionalGeneration.from_pretrained(folder).generation_config
    for name in [*said, "forced_eos_token_id"]:
        assert getattr(old, name) == getattr(theirs, name) is not None
    new = Options.choose(opened(folder, {"do_sample": True, "temperature": 0.5}, said), {})
    assert (new.num_beams, new.forced_bos_token_id, new.sampling) == (1, None, SamplingParams(0.5))
    assert new.eos_token_id == old.eos_token_id == (2,)


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ({"guidance_scale": 1.5, "top_h": 0.4}, "guidance_scale, top_h in generation_config.json are not"),
        ({"watermarking_config": {"bias": 2.0}}, "watermarking_config in generation_config.json is not"),
        ({"sequence_bias": [[[5, 6], 1.0]]}, "sequence_bias in"),
        ({"renormalize_logits": True}, "renormalize_logits in"),
    ],
)
def test_settings_that_are_not_implemented(tiny: Any, tmp_path: Path, file: dict[str, Any], names: str) -> None:
    with pytest.warns(qkv.UnusedSettings, match=names):
        opened(shutil.copytree(tiny("bart"), tmp_path / "copy"), file, {})


def test_settings_that_ask_for_nothing(tiny: Any, tmp_path: Path) -> None:
    file = {
        "guidance_scale": 1, "watermarking_config": None, "renormalize_logits": False, "sequence_bias": [[[5], 1.0]],
        "use_cache": True, "cache_implementation": "hybrid", "output_scores": True, "pad_token_id": 1, "mine": [1],
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(shutil.copytree(tiny("bart"), tmp_path / "copy"), file, {})
