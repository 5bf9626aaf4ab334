"""Sampling: the filtered distribution against transformers, draws, seeds and bad values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

import qkv
from qkv import _ext
from qkv.generation.sampling import SamplingParams, choose_one, describe_bad_row


def reference(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """The distribution `[vocab]` that transformers draws from."""
    scores = torch.from_numpy(logits.astype(np.float64))[None]
    warpers: list[Any] = [TemperatureLogitsWarper(float(params.temperature))]
    if params.top_k is not None:
        warpers.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        warpers.append(TopPLogitsWarper(params.top_p))
    if params.min_p > 0:
        warpers.append(MinPLogitsWarper(params.min_p))
    if params.typical_p < 1:
        warpers.append(TypicalLogitsWarper(params.typical_p))
    if params.epsilon_cutoff > 0:
        warpers.append(EpsilonLogitsWarper(params.epsilon_cutoff))
    if params.eta_cutoff > 0:
        warpers.append(EtaLogitsWarper(params.eta_cutoff, device="cpu"))
    for warper in warpers:
        scores = warper(torch.empty(1, 0, dtype=torch.long), scores)
    return scores.softmax(-1)[0].numpy()


def distribution(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    ids, probs = _ext.candidates(params.filters(), logits)
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


@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize(
    "filters",
    [
        {"min_p": 0.05},
        {"min_p": 0.9},
        {"typical_p": 0.2},
        {"typical_p": 0.95},
        {"epsilon_cutoff": 3e-4},
        {"epsilon_cutoff": 0.2},
        {"eta_cutoff": 1e-4},
        {"eta_cutoff": 0.02},
        {"top_k": 40, "top_p": 0.8, "min_p": 0.03},
        {"top_p": 0.9, "typical_p": 0.8, "epsilon_cutoff": 1e-3, "eta_cutoff": 1e-3},
        {"top_k": 200, "min_p": 0.01, "typical_p": 0.7},
    ],
)
def test_other_filters_equal_transformers(filters: dict[str, Any], temperature: float, spread: float) -> None:
    logits = (np.random.default_rng(4).standard_normal(3001) * spread).astype(np.float32)
    logits[7] = -np.inf
    params = SamplingParams(temperature, **filters)
    ours = distribution(logits, params)
    assert np.abs(ours - reference(logits, params)).max() < 1e-6
    assert np.count_nonzero(ours) < 3000 or spread == 0.1  # the filter does something


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
    filters = SamplingParams(top_k=10).filters()
    assert {choose_one(filters, logits, _ext.uniform(1, 0, i), "") for i in range(200)} == {3, 49}


@pytest.mark.parametrize("params", [SamplingParams(1.3), SamplingParams(0.8, top_p=0.9), SamplingParams(top_k=90)])
def test_draws_follow_the_distribution(params: SamplingParams) -> None:
    logits = np.random.default_rng(5).standard_normal(200).astype(np.float32)
    draws = 100_000
    rows = np.broadcast_to(logits, (1000, 200)).copy()
    counts = np.zeros(200)
    for start in range(0, draws, 1000):
        uniform = [_ext.uniform(11, 0, start + i) for i in range(1000)]
        counts += np.bincount(_ext.choose([params.filters()] * 1000, rows, uniform, 2), minlength=200)
    expected = reference(logits, params) * draws
    assert not counts[expected == 0].any()
    possible = expected > 0
    assert chisquare(counts[possible], expected[possible] * draws / expected.sum()).pvalue > 1e-3


def test_rows_and_threads_do_not_matter() -> None:
    rows = np.random.default_rng(6).standard_normal((16, 50_257)).astype(np.float32) * 3
    params = [None, SamplingParams(), SamplingParams(top_k=50), SamplingParams(0.7, top_p=0.95)] * 4
    filters = [p and p.filters() for p in params]
    draws = [_ext.uniform(1, i, 0) for i in range(16)]
    together = _ext.choose(filters, rows, draws, 2)
    assert together == [_ext.choose([f], row[None], [u])[0] for f, row, u in zip(filters, rows, draws, strict=True)]
    assert together[::4] == rows[::4].argmax(1).tolist()


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0), 0, (0x6627E8D5, 0xE169C58D)),
        ((2**64 - 1, 2**64 - 1), 2**64 - 1, (0x408F276D, 0x41C83B0E)),
        ((0x85A308D3243F6A88, 0x0370734413198A2E), 0x299F31D0A4093822, (0xD16CFE09, 0x94FDCCEB)),
    ],
)
def test_random_numbers_are_philox(counter: tuple[int, int], key: int, words: tuple[int, int]) -> None:
    """The known answers of Random123, the library of the paper's authors."""
    step, stream = counter
    assert _ext.uniform(key, stream, step) == ((words[0] << 32 | words[1]) >> 11) * 2.0**-53


def test_greedy_takes_the_lowest_of_equal_tokens() -> None:
    assert choose_one(None, np.array([0, 2, 1, 2], np.float32), 0.0, "") == 1


@pytest.mark.parametrize("bad", [[np.nan, 1.0], [1.0, np.nan], [-np.inf, -np.inf], [0.0, np.inf]])
@pytest.mark.parametrize("params", [None, SamplingParams()])
def test_logits_that_are_not_finite(bad: list[float], params: SamplingParams | None) -> None:
    with pytest.raises(qkv.Error, match=r"step 3: .*not finite"):
        choose_one(params and params.filters(), np.array(bad, np.float32), 0.5, "step 3")


def test_bad_rows_leave_the_others_alone() -> None:
    rng = np.random.default_rng(8)
    rows = rng.standard_normal((12, 300)).astype(np.float32)
    params = [None, SamplingParams(), SamplingParams(top_k=5), SamplingParams(top_p=0.9)] * 3
    filters = [p and p.filters() for p in params]
    draws = rng.random(12).tolist()
    want = _ext.choose(filters, rows, draws)
    rows[4:8] = np.nan
    rows[8:, 299] = np.inf
    for threads in (1, 2):
        assert _ext.choose(filters, rows, draws, threads) == want[:4] + [-1] * 8


def test_what_is_wrong_with_a_row() -> None:
    row = np.array([0, -np.inf, np.nan, np.inf], np.float32)
    assert describe_bad_row(row) == "the logits are not finite: token 2 has nan; expected numbers"
    assert "token 1 has inf" in describe_bad_row(row[[0, 3]])
    assert "all 2 are -inf" in describe_bad_row(row[[1, 1]])


@pytest.mark.parametrize("vocab", [1, 15, 63, 64, 65, 128, 193, 1000])
def test_each_position_on_each_instruction_set(isa: str, vocab: int) -> None:
    low = np.full((vocab, vocab), -2.0, np.float32)
    one = low.copy()
    np.fill_diagonal(one, 3.0)
    greedy, draws = [None] * vocab, [0.5] * vocab
    assert _ext.choose(greedy, one, draws) == list(range(vocab))
    assert _ext.choose([SamplingParams(1e-3).filters()] * vocab, one, draws) == list(range(vocab))
    for bad in (np.nan, np.inf):
        np.fill_diagonal(low, bad)
        assert _ext.choose(greedy, low, draws) == [-1] * vocab


def test_the_error_names_the_step(model: qkv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    run = model.run_batch

    def breaking(outputs: Any, batch: Any, cancel: Any) -> list[np.ndarray]:
        arrays = run(outputs, batch, cancel)
        return arrays if batch.past[0] < 3 else [np.full_like(array, np.nan) for array in arrays]

    monkeypatch.setattr(model, "run_batch", breaking)
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
    assert model.generate([5], max_new_tokens=30, do_sample=True, min_p=0.999) == greedy
    assert model.generate([5], max_new_tokens=30, do_sample=True, epsilon_cutoff=0.999) == greedy
    assert model.generate([5], max_new_tokens=30, do_sample=True, temperature=1e-6) == greedy


def test_generation_config_speaks_where_the_caller_does_not(model: qkv.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy = model.generate([5], max_new_tokens=20)
    monkeypatch.setattr(model, "generation_config", {"do_sample": True, "top_k": 1, "temperature": 0.5})
    assert model.generate([5], max_new_tokens=20) == greedy  # top_k 1
    assert model.generate([5], max_new_tokens=20, seed=1, top_k=0, temperature=5.0) != greedy
    assert model.generate([5], max_new_tokens=20, do_sample=False) == greedy
    monkeypatch.setattr(model, "generation_config", {"top_p": 3})
    with pytest.raises(qkv.Error, match=r"top_p"):
        model.generate([5], do_sample=True)


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
        ({"min_p": 1.0}, "min_p is 1.0; .*>= 0 and < 1"),
        ({"typical_p": 0}, "typical_p is 0; .*> 0 and <= 1"),
        ({"epsilon_cutoff": -0.1}, "epsilon_cutoff is -0.1"),
        ({"eta_cutoff": "low"}, "eta_cutoff is 'low'"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"temperature": 0.5, "do_sample": False}, "temperature given, but do_sample is False"),
        ({"top_k": 5, "top_p": 0.9, "do_sample": False}, "top_k, top_p given"),
    ],
)
def test_bad_values(model: qkv.Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(qkv.Error, match=message):
        model.generate([5], **({"do_sample": True} | options))
