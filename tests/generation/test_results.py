"""What a result says: log probabilities, times, reasons; and the options that concern a whole call."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import CASES

import qkv


@pytest.mark.parametrize(
    "way",
    [
        {},
        {"do_sample": True, "seed": 1, "temperature": 2.0, "top_k": 20},
        {"repetition_penalty": 2.0},
        {"num_beams": 3},
        {"prompt_lookup_num_tokens": 3},
        {"penalty_alpha": 0.6, "top_k": 4},
    ],
    ids=str,
)
def test_logprobs_are_the_models_own(model: qkv.Model, pool: Any, way: dict[str, Any]) -> None:
    prompt = [5, 84, 72, 5, 84]
    made = model.generate(prompt, max_new_tokens=20, logprobs=3, **way)
    (logits,) = model.logits([prompt + made.token_ids[:-1]])
    expected = torch.from_numpy(logits[len(prompt) - 1 :]).double().log_softmax(-1).numpy()
    assert made.logprobs is not None
    assert [each.token for each in made.logprobs] == made.token_ids
    for each, row in zip(made.logprobs, expected, strict=True):
        assert each.logprob == pytest.approx(row[each.token], abs=1e-5)
        assert list(each.top) == np.argsort(-row, kind="stable")[:3].tolist()
        assert list(each.top.values()) == pytest.approx(np.sort(row)[:-4:-1].tolist(), abs=1e-5)
    assert model.generate(prompt, max_new_tokens=20, **way).logprobs is None


def test_time_is_over(model: qkv.Model, pool: Any) -> None:
    def slow(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        time.sleep(0.02)
        return logits

    made = model.generate([5], max_new_tokens=500, max_time=0.2, logits_processor=slow)
    assert made.finish_reason == "time"
    assert 0 < len(made.token_ids) < 30
    assert made.token_ids == model.generate([5], max_new_tokens=30).token_ids[: len(made.token_ids)]


def test_progress(model: qkv.Model, pool: Any) -> None:
    seen: list[tuple[int, int]] = []
    model.generate([[5], [6], [7]], max_new_tokens=4, progress=lambda done, all_: seen.append((done, all_)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_it_prints_well(model: qkv.Model, pool: Any) -> None:
    made = model.generate("To be", max_new_tokens=30)
    assert str(made) == made.text
    assert repr(made).startswith("<Generation ")
    assert "30 tokens after" in repr(made)
    assert "length" in repr(made)


@pytest.mark.parametrize("case", ["t5", "bart", "marian"])
@pytest.mark.parametrize("beams", [1, 3])
def test_a_forced_beginning_behind_an_encoder(tiny: Any, case: str, beams: int) -> None:
    model, reference = qkv.load(tiny(case)), CASES[case].make()
    start = reference.generation_config.decoder_start_token_id or reference.config.decoder_start_token_id
    prefix, source = [9, 8, 7], [5, 6, 7, 8]
    options = {"max_new_tokens": 20, "num_beams": beams, "forced_bos_token_id": None}
    with torch.no_grad():
        whole = reference.generate(
            torch.tensor([source]), decoder_input_ids=torch.tensor([[start, *prefix]]), do_sample=False, **options
        )
    made = model.generate(source, prefix=prefix, **options)
    assert made.token_ids == whole[0, 4:].tolist()
