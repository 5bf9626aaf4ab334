"""Guesses change the speed and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.generation.decoders import make_decoder

import qkv
from qkv.generation.search.speculation import PromptLookup

PROMPTS = [[5], [84, 72, 69, 220, 300], list(range(40, 90)) * 3, [7, 7, 7, 399]]
SAMPLED = {"do_sample": True, "seed": 3, "temperature": 0.8}
WAYS: list[dict[str, Any]] = [
    {},
    SAMPLED,
    SAMPLED | {"top_k": 40, "top_p": 0.9},
    {"repetition_penalty": 1.3},
    {"no_repeat_ngram_size": 3, "min_new_tokens": 5},
    {"logprobs": 2},
    {"stop_strings": ["e", "t"]},
]


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> qkv.Model:
    folder = tmp_path_factory.mktemp("smaller")
    make_decoder("gpt2", folder)
    return qkv.load(folder, dtype="int8", num_threads=1)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("guesses", [1, 3, 10])
def test_prompt_lookup_changes_nothing(model: qkv.Model, pool: Any, way: dict[str, Any], guesses: int) -> None:
    options = {"max_new_tokens": 60} | way
    alone = [model.generate(p, **options) for p in PROMPTS]
    pool.clear()
    assert [model.generate(p, prompt_lookup_num_tokens=guesses, **options) for p in PROMPTS] == alone
    assert model.generate(PROMPTS, prompt_lookup_num_tokens=guesses, **options)[0] == alone[0]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_draft_model_changes_nothing(model: qkv.Model, pool: Any, smaller: qkv.Model, way: dict[str, Any]) -> None:
    options = {"max_new_tokens": 60} | way
    alone = [model.generate(p, **options) for p in PROMPTS]
    made = [model.generate(p, assistant_model=smaller, num_assistant_tokens=4, **options) for p in PROMPTS]
    assert made == alone
    assert smaller.kv_pool.reserved == 0
    assert all(each.speculation and each.speculation.drafted > 0 for each in made if len(each.token_ids) > 2)


@pytest.mark.parametrize("way", [{}, SAMPLED], ids=str)
def test_a_model_guesses_itself(model: qkv.Model, pool: Any, way: dict[str, Any]) -> None:
    made = model.generate(PROMPTS[1], max_new_tokens=61, assistant_model=model, num_assistant_tokens=5, **way)
    assert made.speculation is not None
    assert made.speculation.acceptance == 1.0
    assert made.speculation.runs == 10


def test_a_draft_model_without_room(model: qkv.Model, pool: Any, tmp_path_factory: Any) -> None:
    """There are no guesses, and the text is the same."""
    folder = tmp_path_factory.mktemp("cramped")
    make_decoder("gpt2", folder)
    page = qkv.load(folder).kv_pool.cache.page_nbytes
    made = model.generate([5], max_new_tokens=200, assistant_model=qkv.load(folder, kv_cache_bytes=page))
    assert made == model.generate([5], max_new_tokens=200)
    assert made.speculation is not None
    assert made.speculation.drafted == 0


def test_guesses_near_the_end_of_the_context(model: qkv.Model, pool: Any) -> None:
    prompt = [5, 6, 7] * 205
    plain = model.generate(prompt, max_new_tokens=100)
    assert len(prompt) + len(plain.token_ids) == 640
    assert model.generate(prompt, max_new_tokens=100, prompt_lookup_num_tokens=20) == plain
    assert model.generate(prompt, max_new_tokens=100, assistant_model=model) == plain


def test_another_vocabulary(model: qkv.Model, tiny: Any) -> None:
    with pytest.raises(qkv.Error, match="vocabulary"):
        model.generate([5], assistant_model=qkv.load(tiny("gpt2")))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 4), st.integers(1, 6))
def test_lookup_follows_the_latest_of_the_longest_matches(ids: list[int], longest: int, most: int) -> None:
    lookup = PromptLookup(longest)
    for end in range(1, len(ids) + 1):
        text, expected = ids[:end], []
        for n in range(min(longest, end - 1), 0, -1):
            starts = [i for i in range(end - n) if text[i : i + n] == text[-n:]]
            if starts:
                start = starts[-1] + n
                agree = next((i for i in range(start) if text[start - i - 1] != text[-i - 1]), start)
                expected = text[start:][: min(most, 2 * agree - 1)]  # the more agree, the further
                break
        assert lookup.draft(text, most) == expected


def test_saved_models_are_twins(twins: Any, tmp_path: Path) -> None:
    """A packed copy of the model guesses every token."""
    qkv.pack(twins.folder, tmp_path / "copy.qkv")
    made = twins.ours.generate([5, 6], max_new_tokens=30, assistant_model=qkv.load(tmp_path / "copy.qkv"))
    assert made.speculation.accepted == made.speculation.drafted
    assert np.array_equal(made.token_ids, twins.ours.generate([5, 6], max_new_tokens=30).token_ids)
