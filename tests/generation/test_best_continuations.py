"""How beams find the tokens that continue them: the best, or drawn."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import logits_process as warpers

import qkv
from qkv import _ext
from qkv.generation.sampling import SamplingParams
from qkv.generation.search.draw import draw_continuations


def expected(scores: np.ndarray, running: list[float], groups: list[tuple[int, int]]) -> list[Any]:
    sums = scores + np.array(running, np.float32)[:, None]
    found, start = [], 0
    for rows, most in groups:
        part = sums[start : start + rows]
        order = np.argsort(-part, axis=None, kind="stable")[:most]
        ranked = [(part.flat[i], int(i // part.shape[1]), int(i % part.shape[1])) for i in order]
        found.append([c for c in ranked if c[0] > -np.inf] if np.all(part < np.inf) else [])
        start += rows
    return found


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_equal_a_stable_sort(data: st.DataObject) -> None:
    """With many equal scores, bans, and now and then a NaN. Small whole numbers: sums are exact, ties are ties."""
    vocab = data.draw(st.sampled_from([1, 2, 63, 64, 65, 200, 1000]))
    groups = data.draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 12)), min_size=1, max_size=4))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    rows = sum(count for count, _ in groups)
    scores = -rng.integers(0, data.draw(st.sampled_from([1, 4, 1000])), (rows, vocab)).astype(np.float32)
    scores[rng.random(scores.shape) < data.draw(st.sampled_from([0.0, 0.5, 0.99]))] = -np.inf
    for bad in data.draw(st.lists(st.sampled_from([np.nan, np.inf]), max_size=1)):
        scores[rng.integers(rows), rng.integers(vocab)] = bad
    running = (-rng.integers(0, 4, rows)).astype(float).tolist()
    threads = data.draw(st.sampled_from([1, 2]))
    assert _ext.best_continuations(scores, running, groups, threads) == expected(scores, running, groups)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_of_logits_as_of_their_log_probabilities(data: st.DataObject) -> None:
    """Logits that differ by less than log probabilities can: what is rounded to the same value is a tie."""
    vocab, step = data.draw(st.sampled_from([1, 65, 1000])), data.draw(st.sampled_from([1e-9, 1e-7, 1.0]))
    groups = data.draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 12)), min_size=1, max_size=3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    rows = sum(count for count, _ in groups)
    logits = (rng.integers(0, 50, (rows, vocab)) * step).astype(np.float32)
    logits[rng.random(logits.shape) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))] = -np.inf
    for bad in data.draw(st.lists(st.sampled_from([np.nan, np.inf]), max_size=1)):
        logits[rng.integers(rows), rng.integers(vocab)] = bad
    running = (-rng.random(rows)).tolist()
    scores = logits.copy()
    _ext.log_softmax(scores)
    best = _ext.best_continuations(scores, running, groups)
    assert best == _ext.best_continuations(logits, running, groups, data.draw(st.sampled_from([1, 2])), None, True)


def test_sizes_are_checked() -> None:
    scores = np.zeros((3, 5), np.float32)
    for running, groups in (
        ([0.0], [(3, 2)]),
        ([0.0] * 3, [(2, 2)]),
        ([0.0] * 3, [(3, 0)]),
        ([0.0] * 3, [(0, 1), (3, 1)]),
    ):
        with pytest.raises(qkv.Error, match="best_continuations"):
            _ext.best_continuations(scores, running, groups)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.5, "top_k": 5}, {"top_k": 1}, {"top_p": 0.7}, {"top_p": 0.01}, {"min_p": 0.3},
     {"temperature": 2.0, "top_k": 9, "top_p": 0.8, "min_p": 0.1}, {"epsilon_cutoff": 0.05}, {"eta_cutoff": 0.2}],
)  # fmt: skip
@pytest.mark.parametrize("keep", [2, 4])
def test_filters_of_drawn_beams_equal_transformers(options: dict[str, Any], keep: int) -> None:
    """All that may be drawn, with the scores: so many draws that nothing is left."""
    rng = np.random.default_rng(0)
    scores = torch.log_softmax(torch.from_numpy(2 * rng.standard_normal((3, 40), np.float32)), -1)
    running = [-1.5, -0.25, -4.0]
    chain = {
        "temperature": lambda t: warpers.TemperatureLogitsWarper(t),
        "top_k": lambda k: warpers.TopKLogitsWarper(k, min_tokens_to_keep=keep),
        "top_p": lambda p: warpers.TopPLogitsWarper(p, min_tokens_to_keep=keep),
        "min_p": lambda p: warpers.MinPLogitsWarper(p, min_tokens_to_keep=keep),
        "epsilon_cutoff": lambda e: warpers.EpsilonLogitsWarper(e, min_tokens_to_keep=keep),
        "eta_cutoff": lambda e: warpers.EtaLogitsWarper(e, min_tokens_to_keep=keep),
    }
    filtered = scores
    for name, value in options.items():
        filtered = chain[name](value)(None, filtered)
    sums = (filtered + torch.tensor(running)[:, None]).numpy()
    drawn = draw_continuations(scores.numpy(), running, SamplingParams(**options), keep, rng.random(120).tolist())
    assert sorted((beam, token) for _, beam, token in drawn) == list(zip(*np.nonzero(sums > -np.inf), strict=True))
    np.testing.assert_allclose([score for score, _, _ in drawn], [sums[b, t] for _, b, t in drawn], atol=1e-5)


def test_draws_without_replacement_have_the_right_frequencies() -> None:
    """Of the first and the second draw together: p_i p_j / (1 - p_i)."""
    scores = np.log(np.array([[0.4, 0.3, 0.05, 0.25], [0.1, 0.2, 0.3, 0.4]], np.float32))
    running = [-0.5, -1.0]
    p = np.exp(scores.astype(np.float64) + np.array(running)[:, None]).reshape(-1)
    p /= p.sum()
    draws = 8000
    counts: Counter[tuple[int, int]] = Counter()
    for step in range(draws):
        uniform = [_ext.uniform(3, 5, 2 * step + i) for i in range(2)]
        (_, b0, t0), (_, b1, t1) = draw_continuations(scores, running, SamplingParams(), 2, uniform)
        counts[4 * b0 + t0, 4 * b1 + t1] += 1
    pairs = [(i, j) for i in range(8) for j in range(8) if i != j]
    assert set(counts) <= set(pairs)
    chances = [p[i] * p[j] / (1 - p[i]) for i, j in pairs]
    found = [counts[pair] for pair in pairs]
    assert scipy.stats.chisquare(found, np.array(chances) * draws).pvalue > 1e-3


def test_tiny_weights_are_drawn_last() -> None:
    """What is left behind a token of nearly all the probability is not lost to rounding."""
    scores = np.array([[0.0, -80.0, -60.0, -np.inf]], np.float32)
    drawn = draw_continuations(scores, [0.0], SamplingParams(), 2, [0.5, 0.5, 0.5, 0.5])
    assert [token for _, _, token in drawn] == [0, 2, 1]


def test_beam_sampling_is_repeatable(twins: Any) -> None:
    options = {"num_beams": 3, "num_return_sequences": 3, "do_sample": True, "max_new_tokens": 12, "temperature": 2.0}
    prompts = [[84, 72, 69, 220], [5, 6]]
    one, two = (twins.ours.generate(prompts, seed=4, **options) for _ in range(2))
    assert one == two
    assert one[0] == twins.ours.generate(prompts[0], seed=4, **options)
    assert [m.token_ids for m in one[0]] != [m.token_ids for m in twins.ours.generate(prompts[0], seed=5, **options)]
    for made in one:
        scores = [m.score for m in made]
        assert scores == sorted(scores, reverse=True)


def test_beam_sampling_draws_texts_as_often_as_transformers(twins: Any) -> None:
    """The best of two beams after two steps, of many draws on both sides."""
    prompt, times = [84, 72, 69, 220], 1500
    options = {"num_beams": 2, "do_sample": True, "max_new_tokens": 2, "top_k": 4, "temperature": 3.0}
    made = twins.ours.generate([prompt] * times, seed=1, **options)
    torch.manual_seed(1)
    with torch.no_grad():
        ids = torch.tensor([prompt] * times)
        drawn = twins.theirs.generate(
            ids, attention_mask=torch.ones_like(ids), eos_token_id=None, pad_token_id=0, **options
        )[:, len(prompt) :]
    ours, theirs = Counter(tuple(m.token_ids) for m in made), Counter(map(tuple, drawn.tolist()))
    common = [text for text, count in (ours + theirs).items() if count >= 20]
    table = [[counts[text] for text in common] for counts in (ours, theirs)]
    assert len(common) > 5
    assert sum(map(sum, table)) > 1.9 * times
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3
