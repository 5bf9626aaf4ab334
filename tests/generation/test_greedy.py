"""Greedy decoding against transformers, and that a prompt's tokens depend on nothing but the prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import qkv
from qkv.generation import loop

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
def test_prefill_in_chunks_changes_nothing(model: qkv.Model, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    whole = model.generate(PROMPTS, max_new_tokens=20)
    logits = _first_logits(model, monkeypatch)
    monkeypatch.setattr(loop, "PREFILL_TOKENS", chunk)
    assert model.generate(PROMPTS, max_new_tokens=20) == whole
    assert _first_logits(model, monkeypatch) == logits


def _first_logits(model: qkv.Model, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The bits of the logits that follow each prompt."""
    seen: list[bytes] = []
    with monkeypatch.context() as patch:
        accept = loop.RunningSequence.accept

        def noting(self: loop.RunningSequence, row: np.ndarray) -> None:
            seen.append(row.tobytes())
            accept(self, row)

        patch.setattr(loop.RunningSequence, "accept", noting)
        model.generate(PROMPTS, max_new_tokens=1)
    return seen


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
    assert made.prefill_seconds > 0
    assert made.tokens_per_second == pytest.approx(19 / made.decode_seconds)
    assert model.generate([5], max_new_tokens=1).tokens_per_second == 0.0
