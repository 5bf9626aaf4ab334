"""The maxima that an output layer finds beside its logits, and how a token is chosen by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import qkv
from qkv import _ext
from qkv.checkpoint import Checkpoint, Weights
from qkv.generation.rules import LogitRules
from qkv.generation.sampling import SamplingParams
from qkv.graph import Graph, lower
from qkv.graph.pack import Packer

WIDTH, TOKENS = 24, 30
ODD = (np.nan, np.inf, -np.inf)


def output_layer(folder: Path, vocab: int, dtype: str, bias: np.ndarray) -> _ext.Program:
    rng = np.random.default_rng(vocab)
    tensors = {
        "table.weight": rng.standard_normal((TOKENS, WIDTH), np.float32),
        "head.weight": rng.standard_normal((vocab, WIDTH), np.float32),
        "head.bias": bias,
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    w = Weights(Checkpoint.open(folder))
    g = Graph()
    x = g.embed(w["table"], vocab_size=TOKENS, hidden_size=WIDTH)
    g.output("logits", g.logits(x, w["head"], vocab, bias=w["head"].param("bias", (vocab,))))
    return lower(g, Packer(dtype, 1)).program


def run(program: _ext.Program, rows: int) -> list[np.ndarray]:
    batch = _ext.Batch(np.arange(rows), [0, rows], [], np.arange(rows), [])
    return program.run(["logits", "logit_maxima"], batch, 2)


def maxima_of(logits: np.ndarray, blocks: int) -> np.ndarray:
    """Of blocks of a power of two of columns; a block with NaN or infinity is NaN or infinite."""
    size = next(size for size in (64, 32, 16, 8) if -(-logits.shape[1] // size) == blocks)
    parts = [logits[:, i : i + size] for i in range(0, logits.shape[1], size)]
    return np.stack([part.max(axis=1) for part in parts], axis=1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("vocab", [1, 63, 64, 130, 333])
def test_maxima_are_those_of_the_logits(vocab: int, dtype: str, tmp_path: Path, isa: str) -> None:
    bias = np.random.default_rng(1).standard_normal(vocab).astype(np.float32)
    program = output_layer(tmp_path, vocab, dtype, bias)
    for rows in (1, 6, 30):
        logits, maxima = run(program, rows)
        assert (maxima == maxima_of(logits, maxima.shape[1])).all()


@pytest.mark.parametrize("odd", [[at] for at in ODD] + [[np.inf, -np.inf], [np.nan, np.inf], [-np.inf] * 100])
def test_odd_logits_show(odd: list[float], tmp_path: Path, isa: str) -> None:
    """NaN and plus infinity are seen wherever they are; minus infinity is a number that is never the largest."""
    bias = np.zeros(100, np.float32)
    for first in (0, 37, 100 - len(odd)):
        bias[:] = 0
        bias[first : first + len(odd)] = odd[: 100 - first]
        logits, maxima = run(output_layer(tmp_path, 100, "float32", bias), 7)
        finite = np.isfinite(logits).all() or not (np.isnan(logits) | (logits == np.inf)).any()
        assert np.isfinite(maxima.max()) == (finite and np.isfinite(logits).any())
        draws = [0.5] * 7
        for filters in (None, SamplingParams(0.7, 5).filters()):
            with_maxima = _ext.choose([filters] * 7, logits, draws, 2, maxima)
            assert with_maxima == _ext.choose([filters] * 7, logits, draws, 1)


FILTERS = (
    None, SamplingParams(), SamplingParams(0.7, 5), SamplingParams(1.3, 60, 0.8), SamplingParams(1.0, None, 0.9),
    SamplingParams(min_p=0.05), SamplingParams(typical_p=0.7), SamplingParams(epsilon_cutoff=3e-3),
    SamplingParams(eta_cutoff=2e-3), SamplingParams(0.5, 300),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    vocab=st.integers(1, 700),
    block=st.sampled_from([8, 16, 32, 64]),
    seed=st.integers(0, 2**32 - 1),
    few=st.booleans(),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_the_same_token_with_maxima_and_without(vocab: int, block: int, seed: int, few: bool, draw: float) -> None:
    """Also with many equal logits."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, (len(FILTERS), vocab)) if few else rng.standard_normal((len(FILTERS), vocab)) * 3
    logits = logits.astype(np.float32)
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    maxima = np.stack([logits[:, i : i + block].max(axis=1) for i in range(0, vocab, block)], axis=1)
    filters = [params and params.filters() for params in FILTERS]
    draws = [draw] * len(FILTERS)
    assert _ext.choose(filters, logits, draws, 1, maxima) == _ext.choose(filters, logits, draws, 2)


@settings(max_examples=60, deadline=None)
@given(
    vocab=st.integers(1, 9000),
    block=st.sampled_from([8, 16, 32, 64]),
    seed=st.integers(0, 2**32 - 1),
    odd=st.booleans(),
)
def test_beams_go_on_the_same_with_maxima_and_without(vocab: int, block: int, seed: int, odd: bool) -> None:
    """Log probabilities with the same bits, their maxima, and the best continuations; one row may hold anything."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((5, vocab)) * 4).astype(np.float32)
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    if odd:
        logits[2, rng.integers(vocab)] = rng.choice([np.nan, np.inf])

    def blocks_of(x: np.ndarray) -> np.ndarray:
        return np.stack([x[:, i : i + block].max(axis=1) for i in range(0, vocab, block)], axis=1)

    plain, maxima = logits.copy(), blocks_of(logits)
    running, groups = [0.0, -1.0, 0.5, 2.0, 2.0], [(2, 4), (1, 2), (2, 200)]
    of_logits = _ext.best_continuations(logits, running, groups, 2, maxima, True)
    _ext.log_softmax(plain, 1)
    _ext.log_softmax(logits, 2, maxima)
    assert logits.tobytes() == plain.tobytes()
    usable = [i for i in range(5) if np.isfinite(logits[i].max())]
    assert (maxima[usable] == blocks_of(logits)[usable]).all()
    best = _ext.best_continuations(plain, running, groups, 1)
    assert best == _ext.best_continuations(logits, running, groups, 2, maxima)
    assert best == of_logits


@settings(max_examples=60, deadline=None)
@given(
    vocab=st.sampled_from([1, 64, 70, 1000, 9000]),
    block=st.sampled_from([8, 16, 32, 64]),
    seed=st.integers(0, 2**32 - 1),
    threads=st.sampled_from([1, 2]),
)
def test_rules_renew_the_maxima(vocab: int, block: int, seed: int, threads: int) -> None:
    rng = np.random.default_rng(seed)
    ids = [rng.integers(0, vocab, rng.integers(1, 40)).tolist() for _ in range(5)]
    rules = [
        LogitRules(repetition_penalty=1.5, no_repeat_ngram_size=1),
        LogitRules(logit_bias={int(i): float(b) for i, b in enumerate(rng.choice([9.0, -9.0, -np.inf], vocab // 8))}),
        LogitRules(presence_penalty=-3.0, frequency_penalty=0.5, min_new_tokens=99, eos_token_id=vocab - 1),
        LogitRules(start=len(ids[3]), limit=1, forced_eos_token_id=[0, vocab - 1, vocab + 5]),
        LogitRules(),
    ]
    logits = (rng.standard_normal((5, vocab)) * 4).astype(np.float32)

    def blocks_of(x: np.ndarray) -> np.ndarray:
        return np.stack([x[:, i : i + block].max(axis=1) for i in range(0, vocab, block)], axis=1)

    maxima = blocks_of(logits)
    assert LogitRules.apply_all(rules, ids, logits, threads, maxima) == [None] * 5
    assert np.array_equal(maxima, blocks_of(logits))


def test_the_largest_few_of_blocks_with_odd_maxima() -> None:
    """The bound that is looked for by halving: between numbers that are far apart, equal, or minus infinity."""
    rng = np.random.default_rng(0)
    for values in (
        rng.standard_normal(64 * 90) * 1e30,
        np.full(64 * 90, 3.5),
        np.where(rng.random(64 * 90) < 0.001, 1.0, -np.inf),
        np.linspace(-3e38, 3e38, 64 * 90),
        np.exp(rng.standard_normal(64 * 90) * 20),
    ):
        logits = values.astype(np.float32)
        for k in (1, 2, 30, 89, 90, 91):
            ids, _ = _ext.candidates(SamplingParams(1e38, k).filters(), logits)
            last = np.sort(logits)[::-1][k - 1]
            expected = np.flatnonzero((logits >= last) & (logits > -np.inf))
            assert sorted(ids.tolist()) == expected.tolist(), k


def test_maxima_that_do_not_fit() -> None:
    logits = np.zeros((2, 100), np.float32)
    for shape in ((1, 2), (2, 3), (2, 200), (2,)):
        maxima = np.zeros(shape, np.float32)
        with pytest.raises(qkv.Error, match="maxima"):
            _ext.choose([None] * 2, logits, [0.0] * 2, 1, maxima)
        with pytest.raises(qkv.Error, match="maxima"):
            _ext.best_continuations(logits, [0.0] * 2, [(2, 1)], 1, maxima)
        with pytest.raises(qkv.Error, match=r"maxima|logits must be"):
            _ext.log_softmax(logits, 1, maxima)


def test_only_linear_layers_have_maxima() -> None:
    program = _ext.Program()
    with pytest.raises(qkv.Error, match="linear step"):
        program.maxima("logit_maxima")
