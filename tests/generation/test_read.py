"""What a run reads of sequences: the batch that C++ makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.generation.caching import load, sequence, tokens

import qkv
from qkv import _ext
from qkv.generation.sequence import read


@pytest.fixture
def model(tiny: Any) -> qkv.Model:
    folder: Path = tiny("llama")
    return load(folder)


def test_parts_of_sequences(model: qkv.Model) -> None:
    """The rows are those of the whole texts, with ids that are cached, ids that are read, and drafts."""
    ids = [tokens(70, 1), tokens(5, 2), tokens(66, 3)]
    made = [sequence(model, own, 200) for own in ids]
    read(model, made, [64, 2, 66], [0, 1, 0])
    made[2].ids.append(9)
    (logits,) = read(model, made, [6, 1, 1], [2, 1, 3], [(), [], (7, 8)])
    whole = model.logits([ids[0], ids[1][:3], [*ids[2], 9, 7, 8]])
    expected = np.concatenate([whole[0][-2:], whole[1][-1:], whole[2][-3:]])
    assert logits.tobytes() == expected.tobytes()
    assert [one.past for one in made] == [70, 3, 67]  # without the drafts
    assert [len(one.pages) for one in made] == [2, 1, 2]


def test_a_page_that_others_hold_is_not_written_to(model: qkv.Model) -> None:
    first = sequence(model, tokens(10), 200)
    read(model, [first], [9], [0])
    other = first.fork()
    other.ids[9] = first.ids[9] ^ 1
    rows = [read(model, [one], [1], [1])[0].tobytes() for one in (first, other)]
    assert first.pages != other.pages
    assert rows == [model.logits([one.ids])[0][-1:].tobytes() for one in (first, other)]


@pytest.mark.parametrize(
    ("counts", "rows", "drafts", "message"),
    [
        ([6], [1], [], "ids has 5 items, not 6"),
        ([-1], [0], [], "ids has 5 items"),
        ([2], [3], [], "logits for 3 of 2 tokens"),
        ([2], [-1], [], "logits for -1 of 2 tokens"),
        ([2, 2], [1], [], "one count, number of rows"),
        ([2], [1], [(), ()], "one count, number of rows"),
        ([2], [1], [7], "drafts must be a list or a tuple"),
        ([2], [1], [(2**40,)], "drafts holds 1099511627776, which is out of range"),
    ],
)
def test_what_does_not_fit(model: qkv.Model, counts: Any, rows: Any, drafts: Any, message: str) -> None:
    one = sequence(model, tokens(5), 200)
    with pytest.raises(qkv.Error, match=message):
        _ext.Batch.of_sequences(model.kv_pool.cache, [one], counts, rows, drafts)


def test_things_that_are_no_sequences(model: qkv.Model) -> None:
    with pytest.raises(AttributeError, match="past"):
        _ext.Batch.of_sequences(model.kv_pool.cache, [5], [1], [1])  # type: ignore[list-item]
