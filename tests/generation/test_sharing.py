"""What requests share: a prompt's pages between its samples, prefixes between prompts, a conversation's state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qkv
from qkv import _ext

PREFIX = [int(i) for i in np.random.default_rng(0).integers(5, 399, 200)]


@pytest.fixture
def tokens_run(model: qkv.Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each run of the model read."""
    counts: list[int] = []
    run = model.run_batch

    def counting(outputs: Any, batch: Any, *cancel: Any) -> Any:
        counts.append(batch.tokens)
        return run(outputs, batch, *cancel)

    monkeypatch.setattr(model, "run_batch", counting)
    return counts


def test_prompts_that_begin_alike_are_read_once(model: qkv.Model, pool: Any, tokens_run: list[int]) -> None:
    tails = [[7], [8, 9], [10, 11, 12]]
    made = model.generate([PREFIX + tail for tail in tails], max_new_tokens=1)
    whole = len(PREFIX) // _ext.page_tokens * _ext.page_tokens
    assert sum(tokens_run) <= len(PREFIX) + 3 + 2 * (len(PREFIX) - whole + 3)
    pool.clear()
    assert made == [model.generate(PREFIX + tail, max_new_tokens=1) for tail in tails]


def test_a_prompt_that_was_read_before(model: qkv.Model, pool: Any, tokens_run: list[int]) -> None:
    model.generate([*PREFIX, 7], max_new_tokens=1)
    tokens_run.clear()
    made = model.generate([*PREFIX, 8], max_new_tokens=1)
    assert tokens_run == [1]  # also of the last page, which was only partly filled
    assert made.cached_tokens == len(PREFIX)


def test_samples_share_their_prompt(model: qkv.Model, pool: Any, tokens_run: list[int]) -> None:
    options = {"max_new_tokens": 30, "do_sample": True, "seed": 5}
    made = model.generate(PREFIX, num_return_sequences=3, **options)
    assert tokens_run[0] == len(PREFIX)
    assert tokens_run[1:] == [3] * 29
    assert len({tuple(each.token_ids) for each in made}) == 3
    assert made[0] == model.generate(PREFIX, **options)


def test_alternatives(model: qkv.Model, pool: Any) -> None:
    made = model.generate(PREFIX, max_new_tokens=10, num_return_sequences=4, return_alternatives=True)
    (logits,) = model.logits([PREFIX])
    likeliest = np.argsort(-logits[-1], kind="stable")[:4].tolist()
    assert [each.token_ids[0] for each in made] == likeliest
    for each, first in zip(made, likeliest, strict=True):
        assert each.token_ids[1:] == model.generate([*PREFIX, first], max_new_tokens=9).token_ids


def test_a_conversation(model: qkv.Model, pool: Any, tokens_run: list[int], tmp_path: Path) -> None:
    first = model.generate(PREFIX, max_new_tokens=20, keep_state=True)
    assert first.state is not None
    assert first.state.ids == PREFIX + first.token_ids
    pool.clear()
    whole = model.generate([*PREFIX, *first.token_ids, 7, 8], max_new_tokens=20)
    pool.clear()
    tokens_run.clear()
    second = model.generate([7, 8], max_new_tokens=20, state=first.state, keep_state=True)
    assert second.token_ids == whole.token_ids
    assert tokens_run[0] == 3  # the last token that was written, too
    first.state.save(tmp_path / "chat")
    first.state.release()
    second.state.release()
    assert pool.reserved == 0
    pool.clear()
    with model.load_state(tmp_path / "chat") as state:
        assert model.generate([7, 8], max_new_tokens=20, state=state).token_ids == whole.token_ids


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": "x"}, "state is 'x'"),
        ({"keep_state": True, "num_beams": 2}, "keep_state"),
    ],
)
def test_bad_states(model: qkv.Model, options: dict[str, Any], message: str) -> None:
    with pytest.raises(qkv.Error, match=message):
        model.generate([5], **options)


def test_a_state_without_hidden_states(model: qkv.Model, pool: Any) -> None:
    state = model.generate([5], max_new_tokens=3, keep_state=True).state
    with pytest.raises(qkv.Error, match="penalty_alpha"):
        model.generate([5], state=state, penalty_alpha=0.5)
    with pytest.raises(qkv.Error, match="state is one conversation"):
        model.generate([[5], [6]], state=state)
    state.release()


def test_an_abandoned_stream_is_named(twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = qkv.load(twins.folder, kv_cache_bytes=8 * twins.ours.kv_pool.cache.page_nbytes)
    monkeypatch.setattr("qkv.generation.pool.STALL_SECONDS", 0.2)
    stream = model.generate([5], max_new_tokens=300, stream=True)
    next(stream)
    with pytest.raises(qkv.Error, match="Close unfinished streams"):
        model.generate([5], max_new_tokens=300)
    stream.close()
    model.generate([5], max_new_tokens=300)
    with pytest.raises(qkv.Error, match="kv_cache_bytes"):
        model.generate([5], max_new_tokens=600)
