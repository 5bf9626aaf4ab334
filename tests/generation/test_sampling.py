"""Sampling: the filtered distribution against transformers, draws, seeds and bad values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import qkv
from qkv.generation.sampling import Sampler, SamplingParams, candidates


def reference(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """The distribution `[vocab]` that transformers draws from."""
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    warpers: list[Any] = [TemperatureLogitsWarper(float(params.temperature))]
    if params.top_k is not None:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    for warper in warpers:
        scores = warper(torch.empty(1, 0, dtype=torch.long), scores)
    return scores.softmax(-1)[0].numpy()


def distribution(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    ids, probs = candidates(logits, params)
    assert len(set(ids.tolist())) == len(ids)
    full = np.zeros(len(logits))
    full[ids] = probs
    return full


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 7, 300, 5000])
@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.9, 0.9999, 1.0])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_distribution_equals_transformers(temperature: float, top_k: int | None, top_p: float, spread: float) -> None:
    logits = (np.random.default_rng(3).standard_normal(4000) * spread).astype(np.float32)
    params = SamplingParams(temperature, top_k, top_p)
    assert np.abs(distribution(logits, params) - reference(logits, params)).max() < 1e-6


@given(
    logits=st.lists(st.integers(-3, 3), min_size=1, max_size=40),
    top_k=st.none() | st.integers(1, 50),
    top_p=st.sampled_from([0.15, 0.37, 0.73, 0.97, 1.0]),
)
@settings(deadline=None)
def test_ties_are_kept_as_transformers_keeps_them(logits: list[int], top_k: int | None, top_p: float) -> None:
    # Thirds are not exact in binary: sums of equal probabilities stay clear of the borders tested. Which of
    # equal tokens are in the nucleus is left open by transformers (an unstable sort): the values must agree.
    row = np.array(logits, np.float32) / 3
    params = SamplingParams(1.0, top_k, top_p)
    ours, theirs = distribution(row, params), reference(row, params)
    assert np.abs(np.sort(ours) - np.sort(theirs)).max() < 1e-6
    if top_p == 1:
        assert np.abs(ours - theirs).max() < 1e-6


def test_masked_tokens_are_never_drawn() -> None:
    logits = np.full(50, -np.inf, np.float32)
    logits[[3, 49]] = 0.0
    sampler = Sampler(SamplingParams(top_k=10), seed=1)
    assert {sampler(logits) for _ in range(200)} == {3, 49}


def test_draws_follow_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.2, 0.05], np.float32))
    sampler = Sampler(SamplingParams(), seed=11)
    counts = np.bincount([sampler(logits) for _ in range(20_000)], minlength=4)
    assert np.abs(counts / 20_000 - [0.5, 0.25, 0.2, 0.05]).max() < 0.015


def test_greedy_takes_the_lowest_of_equal_tokens() -> None:
    assert Sampler(None)(np.array([0, 2, 1, 2], np.float32)) == 1


@pytest.mark.parametrize("bad", [[np.nan, 1.0], [1.0, np.nan], [-np.inf, -np.inf], [0.0, np.inf]])
@pytest.mark.parametrize("params", [None, SamplingParams()])
def test_logits_that_are_not_finite(bad: list[float], params: SamplingParams | None) -> None:
    with pytest.raises(qkv.Error, match="not finite"):
        Sampler(params, seed=0)(np.array(bad, np.float32))


def test_the_error_names_the_step(model: qkv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    run = model.run

    def breaking(*args: Any, **options: Any) -> np.ndarray:
        logits = run(*args, **options)
        return logits if options["past"][0] < 3 else np.full_like(logits, np.nan)

    monkeypatch.setattr(model, "run", breaking)
    with pytest.raises(qkv.Error, match="step 4: the logits are not finite"):
        model.generate([5], max_new_tokens=10)


def test_seeds_reproduce(model: qkv.Model) -> None:
    def sampled(prompts: Any, seed: int | None) -> Any:
        return model.generate(prompts, max_new_tokens=30, do_sample=True, temperature=0.9, top_k=50, seed=seed)

    one = sampled([5, 6], 3)
    assert sampled([5, 6], 3) == one
    assert sampled([5, 6], 4) != one
    assert sampled([5, 6], None) != sampled([5, 6], None)
    batch = sampled([[5, 6], [5, 6], [9]], 3)
    assert batch[0] == one
    assert batch[1] != one, "each prompt of a batch draws its own numbers"
    assert sampled([[5, 6], [5, 6]], 3) == batch[:2]


def test_one_token_is_left(model: qkv.Model) -> None:
    greedy = model.generate([5], max_new_tokens=30)
    assert model.generate([5], max_new_tokens=30, do_sample=True, top_k=1) == greedy
    assert model.generate([5], max_new_tokens=30, do_sample=True, top_p=1e-9) == greedy
    assert model.generate([5], max_new_tokens=30, do_sample=True, temperature=1e-6) == greedy


def test_generation_config_speaks_only_when_sampling(model: qkv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy = model.generate([5], max_new_tokens=20)
    monkeypatch.setattr(model, "generation_config", {"do_sample": True, "top_k": 1, "temperature": 0.5})
    assert model.generate([5], max_new_tokens=20) == greedy
    assert model.generate([5], max_new_tokens=20, do_sample=True, seed=1) == greedy  # top_k 1
    assert model.generate([5], max_new_tokens=20, do_sample=True, seed=1, top_k=0, temperature=5.0) != greedy
    monkeypatch.setattr(model, "generation_config", {"top_p": 3})
    with pytest.raises(qkv.Error, match=r"generation_config.json: top_p is 3"):
        model.generate([5], do_sample=True)
    assert model.generate([5], max_new_tokens=20) == greedy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature is 0; .*do_sample=False"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": True}, "top_p is True"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"temperature": 0.5, "do_sample": False}, "temperature given, but do_sample is False"),
        ({"top_k": 5, "top_p": 0.9, "do_sample": False}, "top_k, top_p given"),
    ],
)
def test_bad_values(model: qkv.Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(qkv.Error, match=message):
        model.generate([5], **({"do_sample": True} | options))
