"""Random mixes of requests in a small pool: each as alone, nothing leaked, nothing stuck."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.generation.decoders import make_decoder

import qkv
from qkv.generation.options import Options
from qkv.generation.request import Request
from qkv.generation.scheduler import Scheduler

PAGES = 24
SHARED = list(range(30, 160))  # a prefix of two pages and a bit


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def small(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> qkv.Model:
    """A model whose pool is small."""
    folder = tmp_path_factory.mktemp("small")
    make_decoder(request.param, folder)
    page = qkv.load(folder).kv_pool.cache.page_nbytes
    return qkv.load(folder, kv_cache_bytes=PAGES * page, num_threads=2)


@dataclass
class Asked:
    prompt: list[int]
    options: dict[str, Any]
    joins: int  # the step before which it is added
    cancelled: int | None  # the step before which it is cancelled


def searches() -> st.SearchStrategy[dict[str, Any]]:
    length = st.fixed_dictionaries({"max_new_tokens": st.integers(1, 40)})
    kinds = st.one_of(
        st.just({}),
        st.builds(lambda seed: {"do_sample": True, "seed": seed, "temperature": 1.3}, st.integers(0, 99)),
        st.builds(
            lambda seed, n: {"do_sample": True, "seed": seed, "num_return_sequences": n},
            st.integers(0, 9),
            st.integers(2, 3),
        ),
        st.builds(lambda n: {"num_beams": n, "num_return_sequences": n}, st.integers(2, 3)),
        st.just({"prompt_lookup_num_tokens": 5}),
        st.just({"penalty_alpha": 0.6, "top_k": 3}),
        st.just({"repetition_penalty": 1.2, "no_repeat_ngram_size": 3}),
    )
    return st.builds(lambda a, b: a | b, length, kinds)


def requests() -> st.SearchStrategy[Asked]:
    shared = st.builds(
        lambda n, tail: SHARED[:n] + tail, st.integers(0, 130), st.lists(st.integers(5, 399), min_size=1, max_size=30)
    )
    return st.builds(Asked, shared, searches(), st.integers(0, 60), st.none() | st.integers(0, 60))


_alone: dict[Any, Any] = {}


def alone(model: qkv.Model, asked: Asked) -> list[list[int]]:
    key = (id(model), tuple(asked.prompt), tuple(sorted(asked.options.items())))
    if key not in _alone:
        model.kv_pool.clear()
        made = model.generate(asked.prompt, **asked.options)
        _alone[key] = [each.token_ids for each in (made if isinstance(made, list) else [made])]
    return _alone[key]


def run(model: qkv.Model, mix: list[Asked]) -> None:
    expected = [alone(model, asked) for asked in mix]
    model.kv_pool.clear()
    scheduler = Scheduler(model)
    made = [Request(model, a.prompt, Options.choose(model, a.options, single=True), live=False) for a in mix]
    step = 0
    while step <= 60 or scheduler.busy:
        for request, asked in zip(made, mix, strict=True):
            if asked.joins == step:
                scheduler.add(request)
            if asked.cancelled == step:
                request.cancelled = True
        scheduler.step()
        step += 1
        assert step < 100_000, "stuck"
    for request, asked, ids in zip(made, mix, expected, strict=True):
        assert request.error is None
        got = [each.token_ids for each in request.results]
        if request.results[0].finish_reason == "cancelled":
            assert asked.cancelled is not None
            if len(got) == 1 and "num_beams" not in asked.options:
                assert got[0] == ids[0][: len(got[0])]
        else:
            assert got == ids
    assert model.kv_pool.reserved == 0
    model.kv_pool.clear()
    assert model.kv_pool.cache.pages_in_use == 0


@given(st.lists(requests(), min_size=1, max_size=8))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mixes(small: qkv.Model, mix: list[Asked]) -> None:
    run(small, mix)


def test_a_thousand_requests(small: qkv.Model) -> None:
    rng = np.random.default_rng(1)
    kinds: list[dict[str, Any]] = [
        {},
        {"do_sample": True, "seed": 1},
        {"num_beams": 2},
        {"prompt_lookup_num_tokens": 3},
        {"do_sample": True, "seed": 2, "num_return_sequences": 2},
    ]
    mix = []
    for _ in range(1000):
        length = int(rng.integers(1, 100))
        prompt = SHARED[: int(rng.integers(0, 120))] + [int(rng.integers(5, 9))] * (length % 3 + 1)
        options = kinds[int(rng.integers(len(kinds)))] | {"max_new_tokens": int(rng.integers(1, 8))}
        cancelled = int(rng.integers(0, 60)) if rng.random() < 0.1 else None
        mix.append(Asked(prompt, options, int(rng.integers(0, 60)), cancelled))
    run(small, mix)


@pytest.mark.parametrize("case", ["mistral", "t5"])
def test_windows_and_sources(tiny: Any, case: str) -> None:
    """Pages that are given back behind a window, and those of what encoders read."""
    page = qkv.load(tiny(case)).kv_pool.cache.page_nbytes
    model = qkv.load(tiny(case), kv_cache_bytes=60 * page * (2 if case == "t5" else 1), num_threads=2)
    rng = np.random.default_rng(1)
    text = rng.integers(5, model.vocab_size, 200).tolist()
    kinds: list[dict[str, Any]] = [
        {},
        {"do_sample": True, "seed": 1, "num_return_sequences": 2},
        {"num_beams": 3, "num_return_sequences": 2},
        {"prompt_lookup_num_tokens": 3},
        {"penalty_alpha": 0.6, "top_k": 3},
    ]
    mix = []
    for _ in range(60):
        prompt = text[: int(rng.integers(0, 180))] + rng.integers(5, model.vocab_size, 3).tolist()
        options = kinds[int(rng.integers(len(kinds)))] | {"max_new_tokens": int(rng.integers(1, 60))}
        cancelled = int(rng.integers(0, 60)) if rng.random() < 0.15 else None
        mix.append(Asked(prompt, options, int(rng.integers(0, 60)), cancelled))
    run(model, mix)
    if model.encoder:
        assert model.source_pool.reserved == model.source_pool.pages_in_use == 0


def test_a_text_longer_than_the_pool(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a window pages are free again, so that a text needs no more of them than the window and a run."""
    model = qkv.load(tiny("mistral"))
    expected = model.generate([5, 6], max_new_tokens=390, eos_token_id=[])
    for module in ("request", "scheduler"):
        monkeypatch.setattr(f"qkv.generation.{module}.PREFILL_TOKENS", 64)
    small = qkv.load(tiny("mistral"), kv_cache_bytes=5 * model.kv_pool.cache.page_nbytes)
    assert small.generate([5, 6], max_new_tokens=390, eos_token_id=[]) == expected
    assert len(expected.token_ids) > 5 * 64
    with pytest.raises(qkv.Error, match="kv_cache_bytes"):
        small.generate([5, 6], max_new_tokens=390, num_beams=2)
