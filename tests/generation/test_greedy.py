"""Greedy decoding against transformers, and that a prompt's tokens depend on nothing but the prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qkv

PROMPTS = [[5], [84, 72, 69, 220, 300], list(range(40, 140)), [7, 7, 7, 399]]


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
def test_256_greedy_tokens_equal_transformers(twins: Any, prompt: list[int]) -> None:
    expected = twins.greedy(prompt, 256)
    assert len(set(expected)) > 20, "the model repeats itself: this compares little"
    made = twins.ours.generate(prompt, max_new_tokens=256)
    assert made.token_ids == expected
    assert made.finish_reason == "length"
    assert made.prompt_tokens == len(prompt)
    assert made.text == str(made)


def test_end_of_sequence_token_ends_the_text(twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    long = twins.greedy(PROMPTS[1], 40)
    eos = next(token for i, token in enumerate(long) if i > 5 and token not in long[:i])
    expected = twins.greedy(PROMPTS[1], 40, eos=eos)
    assert expected == long[: long.index(eos) + 1]
    monkeypatch.setattr(twins.ours, "generation_config", {"eos_token_id": [eos, 399]})
    made = twins.ours.generate(PROMPTS[1], max_new_tokens=40)
    assert made.token_ids == expected
    assert made.finish_reason == "stop"
    whole = twins.ours.tokenizer.decode(PROMPTS[1] + expected[:-1])
    assert whole == twins.ours.tokenizer.decode(PROMPTS[1]) + made.text


def test_end_of_sequence_token_of_config_json(model: qkv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    token = model.generate([5], max_new_tokens=1).token_ids[0]
    monkeypatch.setattr(model, "generation_config", {"eos_token_id": None})
    monkeypatch.setattr(model.config, "eos_token_id", token)
    assert model.generate([5]).finish_reason == "stop"
    assert model.generate([5]).token_ids == [token]
    assert model.generate([5]).text == ""


def test_batch_equals_one_by_one(model: qkv.Model) -> None:
    alone = [model.generate(prompt, max_new_tokens=70) for prompt in PROMPTS]
    assert model.generate(PROMPTS, max_new_tokens=70) == alone


def test_sequences_that_end_early_leave_the_batch(model: qkv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    token = model.generate(PROMPTS[0], max_new_tokens=10).token_ids[3]
    monkeypatch.setattr(model, "generation_config", {"eos_token_id": token})
    alone = [model.generate(prompt, max_new_tokens=70) for prompt in PROMPTS]
    assert len({len(made.token_ids) for made in alone}) > 1
    assert model.generate(PROMPTS, max_new_tokens=70) == alone


@pytest.mark.parametrize("chunk", [1, 3, 64, 101])
def test_prefill_in_chunks_changes_nothing(
    model: qkv.Model, pool: Any, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    whole, logits = _with_logits(model)
    pool.clear()
    monkeypatch.setattr("qkv.generation.scheduler.PREFILL_TOKENS", chunk)
    monkeypatch.setattr("qkv.generation.scheduler.PREFILL_TOKENS_BESIDE_DECODING", chunk)
    assert _with_logits(model) == (whole, logits)


def test_cached_prefixes_change_nothing(model: qkv.Model, pool: Any) -> None:
    whole, logits = _with_logits(model)
    again, same = _with_logits(model)
    assert (again, same) == (whole, logits)
    assert [made.cached_tokens for made in whole] == [0] * len(PROMPTS)
    assert [made.cached_tokens for made in again] == [len(prompt) - 1 for prompt in PROMPTS]


def _with_logits(model: qkv.Model) -> tuple[Any, dict[Any, bytes]]:
    """What follows each prompt, and the bits of all logits on the way."""
    seen: dict[Any, bytes] = {}

    def noting(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        seen[tuple(ids.tolist())] = logits.tobytes()
        return logits

    return model.generate(PROMPTS, max_new_tokens=20, logits_processor=noting), seen


def test_prompts_as_text_as_ids_and_as_arrays(model: qkv.Model) -> None:
    assert model.tokenizer is not None
    text = "To be, or not"
    ids = model.tokenizer.encode(text).ids
    made = model.generate(text, max_new_tokens=5)
    assert model.generate(ids, max_new_tokens=5) == made
    assert model.generate(np.array(ids), max_new_tokens=5) == made
    assert model.generate([text, ids], max_new_tokens=5) == [made, made]
    assert model.generate([], max_new_tokens=5) == []


def test_generation_ends_where_the_context_does(model: qkv.Model) -> None:
    prompt = [5] * 630
    made = model.generate(prompt, max_new_tokens=100)
    assert made.finish_reason == "length"
    assert len(prompt) + len(made.token_ids) == model.context_length == 640


def test_timings_add_up(model: qkv.Model) -> None:
    made = model.generate([5], max_new_tokens=20)
    assert made.timings.prefill > 0
    assert 0 < made.timings.tokens[0] <= made.timings.tokens[-1]
    assert made.tokens_per_second == pytest.approx(19 / made.timings.decode)
    assert model.generate([5], max_new_tokens=1).tokens_per_second == 0.0
