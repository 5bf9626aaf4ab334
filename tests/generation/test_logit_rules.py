"""LogitRules against transformers' logits processors, bit for bit, and what hostile arguments and callables do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

import qkv
from qkv import _ext
from qkv.generation.rules import LogitRules

VOCAB = 30
SOURCE = [3, 4, 5, 4, 5, 6, 9, 9, 0]
EOS = [2, 7]
IDS = [1, 5, 6, 4, 5, 6, 4, 5, 6, 4, 5, 11, 4, 5]
START = 4
LIMIT = len(IDS) - START + 1  # the next token is the last


def encoder(ids: list[int]) -> torch.Tensor:
    return torch.tensor([ids])


# Each rule as transformers has it, in the order of its `_get_logits_processor`.
THEIRS: dict[str, Callable[[Any], hf.LogitsProcessor]] = {
    "logit_bias": lambda v: hf.SequenceBiasLogitsProcessor({(token,): float(bias) for token, bias in v.items()}),
    "encoder_repetition_penalty": lambda v: hf.EncoderRepetitionPenaltyLogitsProcessor(v, encoder(SOURCE)),
    "repetition_penalty": lambda v: hf.RepetitionPenaltyLogitsProcessor(v),
    "no_repeat_ngram_size": lambda v: hf.NoRepeatNGramLogitsProcessor(v),
    "encoder_no_repeat_ngram_size": lambda v: hf.EncoderNoRepeatNGramLogitsProcessor(v, encoder(SOURCE)),
    "bad_words_ids": lambda v: hf.NoBadWordsLogitsProcessor(v, torch.tensor(EOS)),
    "min_length": lambda v: hf.MinLengthLogitsProcessor(v, EOS),
    "min_new_tokens": lambda v: hf.MinNewTokensLengthLogitsProcessor(START, v, EOS),
    "forced_bos_token_id": lambda v: hf.ForcedBOSTokenLogitsProcessor(v),
    "forced_eos_token_id": lambda v: hf.ForcedEOSTokenLogitsProcessor(START + LIMIT, v),
    "suppress_tokens": lambda v: hf.SuppressTokensLogitsProcessor(v),
    "begin_suppress_tokens": lambda v: hf.SuppressTokensAtBeginLogitsProcessor(v, START),
}


def scores_of(seed: int, log_softmax: bool = False) -> np.ndarray:
    scores = torch.from_numpy(np.random.default_rng(seed).standard_normal((1, VOCAB)).astype(np.float32) * 4)
    scores[0, 13] = -np.inf
    return (scores.log_softmax(-1) if log_softmax else scores).numpy()


def ours(options: dict[str, Any], ids: list[int], scores: np.ndarray, start: int = START) -> np.ndarray:
    changed = scores.copy()
    LogitRules(start=start, limit=LIMIT, eos_token_id=EOS, source=SOURCE, **options).apply([ids], changed)
    return changed


def reference(options: dict[str, Any], ids: list[int], scores: np.ndarray) -> np.ndarray:
    processors = [make(options[name]) for name, make in THEIRS.items() if name in options]
    return hf.LogitsProcessorList(processors)(torch.tensor([ids]), torch.from_numpy(scores.copy())).numpy()


CASES: list[dict[str, Any]] = [
    {"logit_bias": {4: 2.5, 5: -3.0, 13: 1.0, 20: -np.inf}},
    {"encoder_repetition_penalty": 1.3},
    {"encoder_repetition_penalty": 0.7},
    {"repetition_penalty": 1.2},
    {"repetition_penalty": 0.6},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"no_repeat_ngram_size": len(IDS)},
    {"encoder_no_repeat_ngram_size": 1},
    {"encoder_no_repeat_ngram_size": 2},
    {"encoder_no_repeat_ngram_size": 3},
    {"bad_words_ids": [[8], [2], [4, 5, 21], [5, 22], [1, 4, 5, 23], [6, 24], [5, 2], [*IDS, 25], [0, *IDS, 26]]},
    {"min_length": len(IDS)},
    {"min_length": len(IDS) + 1},
    {"min_new_tokens": len(IDS) - START},
    {"min_new_tokens": len(IDS) - START + 1},
    {"forced_bos_token_id": 12},
    {"forced_eos_token_id": 2},
    {"forced_eos_token_id": [2, 7]},
    {"suppress_tokens": [3, 29]},
    {"begin_suppress_tokens": [3, 28]},
    {"forced_bos_token_id": 12, "forced_eos_token_id": 2, "suppress_tokens": [2, 12, 5], "repetition_penalty": 2.0},
]


@pytest.mark.parametrize("log_softmax", [False, True])
@pytest.mark.parametrize("options", CASES, ids=str)
def test_each_rule_equals_transformers(options: dict[str, Any], log_softmax: bool) -> None:
    scores = scores_of(1, log_softmax)
    changes = 0
    for length in range(1, len(IDS) + 1):
        got = ours(options, IDS[:length], scores)
        np.testing.assert_array_equal(got, reference(options, IDS[:length], scores), err_msg=f"{length} ids")
        changes += not np.array_equal(got, scores)
    assert changes or options == {"no_repeat_ngram_size": len(IDS)}


tokens = st.integers(0, VOCAB - 1)
some_tokens = st.lists(tokens, min_size=1, max_size=4)
penalties = st.sampled_from([0.5, 0.9, 1.1, 1.7])
RULES: dict[str, st.SearchStrategy[Any]] = {
    "logit_bias": st.dictionaries(tokens, st.floats(-5, 5, width=32), min_size=1, max_size=4),
    "encoder_repetition_penalty": penalties,
    "repetition_penalty": penalties,
    "no_repeat_ngram_size": st.integers(1, 4),
    "encoder_no_repeat_ngram_size": st.integers(1, 4),
    "bad_words_ids": st.lists(some_tokens, min_size=1, max_size=4).filter(lambda words: words != [[2]]),
    "min_length": st.integers(1, 20),
    "min_new_tokens": st.integers(1, 20),
    "forced_bos_token_id": tokens,
    "forced_eos_token_id": tokens,
    "suppress_tokens": some_tokens,
}


@given(
    options=st.fixed_dictionaries({}, optional=RULES),
    ids=st.lists(st.sampled_from([2, 4, 5, 6]), min_size=START, max_size=START + LIMIT - 1),
    seed=st.integers(0, 9),
    log_softmax=st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_together_they_equal_transformers(
    options: dict[str, Any], ids: list[int], seed: int, log_softmax: bool
) -> None:
    bad_words = [word for word in options.get("bad_words_ids", []) if word not in ([eos] for eos in EOS)]
    if "bad_words_ids" in options and not bad_words:
        del options["bad_words_ids"]  # transformers wants at least one
    scores = scores_of(seed, log_softmax)
    np.testing.assert_array_equal(ours(options, ids, scores), reference(options, ids, scores))


@pytest.mark.parametrize(("start", "forced", "begin"), [(1, None, 1), (1, 12, 2), (3, None, 3), (3, 12, 3)])
def test_the_first_new_token_is_the_one_after_a_forced_first(start: int, forced: int | None, begin: int) -> None:
    scores = scores_of(2)
    options = {"begin_suppress_tokens": [8], "forced_bos_token_id": forced}
    banned = [length for length in (2, 3, 4) if ours(options, IDS[:length], scores, start)[0, 8] == -np.inf]
    assert banned == ([begin] if begin > 1 else [])


def test_penalties_of_new_tokens() -> None:
    """OpenAI's formula: logit -= [count > 0] presence + count frequency."""
    scores = scores_of(3)
    counts = np.bincount(IDS[START:], minlength=VOCAB)
    want = scores.astype(np.float64) - (counts > 0) * 0.7 - counts * 0.4
    got = ours({"presence_penalty": 0.7, "frequency_penalty": 0.4}, IDS, scores)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6, atol=1e-6)
    assert np.array_equal(ours({"presence_penalty": -1.0}, IDS[:START], scores), scores), "the prompt does not count"
    # after repetition_penalty
    both = ours({"presence_penalty": 0.5, "repetition_penalty": 2.0}, IDS, scores)
    want = ours({"repetition_penalty": 2.0}, IDS, scores) - (counts > 0).astype(np.float32) * np.float32(0.5)
    np.testing.assert_array_equal(both, want)


@pytest.mark.parametrize("threads", [1, 2])
def test_rows_of_many_requests(threads: int) -> None:
    rng = np.random.default_rng(4)
    requests = [CASES[i % len(CASES)] if i % 5 else None for i in range(60)]
    rules = [
        LogitRules()
        if options is None
        else LogitRules(start=START, limit=LIMIT, eos_token_id=EOS, source=SOURCE, **options)
        for options in requests
    ]
    ids = [IDS[: int(length)] * 50 if i % 7 else IDS for i, length in enumerate(rng.integers(1, len(IDS), 60))]
    scores = rng.standard_normal((60, VOCAB)).astype(np.float32)
    changed = scores.copy()
    assert LogitRules.apply_all(rules, ids, changed, threads) == [None] * 60
    for i, options in enumerate(requests):
        want = scores[i : i + 1] if options is None else ours(options, ids[i], scores[i : i + 1])
        np.testing.assert_array_equal(changed[i : i + 1], want)


def test_without_rules_nothing_is_active() -> None:
    assert not LogitRules(start=3, limit=5, eos_token_id=2, source=[1]).active
    assert not LogitRules(min_length=5, encoder_repetition_penalty=2.0).active, "no end token, no source"
    assert LogitRules(logits_processor=[lambda ids, logits: logits]).active
    assert all(LogitRules(start=1, limit=5, eos_token_id=2, source=[1], **options).active for options in CASES)


hostile = st.one_of(st.integers(-3, VOCAB + 3), st.integers(-(2**70), 2**70))
hostile_lists = st.lists(hostile, max_size=5)


@given(
    options=st.fixed_dictionaries(
        {},
        optional={
            "logit_bias": st.dictionaries(hostile, st.floats(max_value=0, allow_nan=False, width=32), max_size=4),
            "encoder_repetition_penalty": st.floats(1e-38, 1e38),
            "repetition_penalty": st.floats(1e-38, 1e38),
            "presence_penalty": st.floats(-2, 2, width=32),
            "frequency_penalty": st.floats(-2, 2, width=32),
            "no_repeat_ngram_size": st.integers(0, 2**62),
            "encoder_no_repeat_ngram_size": st.integers(0, 2**62),
            "bad_words_ids": st.lists(st.lists(hostile, min_size=1, max_size=3), max_size=4),
            "min_length": st.integers(0, 2**62),
            "min_new_tokens": st.integers(0, 2**62),
            "forced_bos_token_id": hostile,
            "forced_eos_token_id": hostile_lists,
            "suppress_tokens": hostile_lists,
            "begin_suppress_tokens": hostile_lists,
        },
    ),
    start=st.integers(0, 8),
    limit=st.none() | st.integers(1, 9),
    source=hostile_lists,
    eos=hostile_lists,
    ids=st.lists(hostile, max_size=6),
)
@settings(deadline=None, max_examples=300)
def test_ids_outside_the_vocabulary_are_ignored(
    options: dict[str, Any], start: int, limit: int | None, source: list[int], eos: list[int], ids: list[int]
) -> None:
    guarded = np.full((3, VOCAB), 1.5, np.float32)
    rules = LogitRules(start=start, limit=limit, source=source, eos_token_id=eos, **options)
    rules.apply([ids], guarded[1:2])
    assert (guarded[[0, 2]] == 1.5).all(), "only its own row is written"
    assert not np.isnan(guarded).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition_penalty": 1e-46}, "repetition_penalty is 1e-46"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0; expected a number > 0"),
        ({"encoder_repetition_penalty": float("nan")}, "encoder_repetition_penalty is nan"),
        ({"presence_penalty": float("inf")}, "presence_penalty is inf; expected a finite number"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size is -1; expected an integer >= 0"),
        ({"min_new_tokens": -1}, "min_new_tokens is -1"),
        ({"logit_bias": {3: float("inf")}}, "logit_bias of token 3 is inf"),
        ({"bad_words_ids": [[1], []]}, "bad_words_ids holds a word without tokens"),
        ({"bad_words_ids": [[1.5]]}, r"bad_words_ids is \[1.5\]; expected token ids"),
        ({"suppress_tokens": ["a"]}, r"suppress_tokens is \['a'\]; expected token ids"),
        ({"eos_token_id": True}, r"eos_token_id is \[True\]; expected token ids"),
    ],
)
def test_bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(qkv.Error, match=message):
        LogitRules(**options)


@pytest.mark.parametrize(
    "logits", [np.zeros((1, VOCAB)), np.zeros(VOCAB, np.float32), np.zeros((1, 2 * VOCAB), np.float32)[:, ::2]]
)
def test_arrays_that_cannot_be_changed_in_place(logits: Any) -> None:
    with pytest.raises(qkv.Error, match="C-contiguous, writable float32"):
        LogitRules(suppress_tokens=[1]).apply([[1]], logits)
    frozen = np.zeros((1, VOCAB), np.float32)
    frozen.flags.writeable = False
    with pytest.raises(qkv.Error, match="writable"):
        LogitRules(suppress_tokens=[1]).apply([[1]], frozen)
    with pytest.raises(qkv.Error, match="1 rules and 2 lists of ids for 1 rows"):
        LogitRules.apply_all([LogitRules(suppress_tokens=[1])], [[1], [2]], np.zeros((1, VOCAB), np.float32))
    with pytest.raises(TypeError):
        _ext.apply_rules([LogitRules(repetition_penalty=2.0)._rules], [["a"]], np.zeros((1, VOCAB), np.float32))


def test_own_processors_come_last_and_in_order() -> None:
    seen: list[tuple[list[int], np.ndarray]] = []

    def noting(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        assert ids.dtype == np.int64
        assert logits.dtype == np.float32
        seen.append((ids.tolist(), logits))
        return logits + np.float32(1)

    def in_place(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        ids[:] = 0
        logits *= 2
        return logits

    scores = np.random.default_rng(5).standard_normal((2, VOCAB)).astype(np.float32)
    changed = scores.copy()
    rules = LogitRules(suppress_tokens=[4], logits_processor=[in_place, noting])
    rules.apply([IDS, IDS[:3]], changed)
    banned = scores.copy()
    banned[:, 4] = -np.inf
    np.testing.assert_array_equal(changed, banned * 2 + 1)
    assert [ids for ids, _ in seen] == [IDS, IDS[:3]]
    np.testing.assert_array_equal(seen[0][1], banned[0] * 2)  # what it keeps is not changed later
    alone = scores.copy()
    assert LogitRules.apply_all([rules, LogitRules()], [IDS, IDS], alone) == [None, None]
    np.testing.assert_array_equal(alone, np.stack([changed[0], scores[1]]))


def test_a_processor_that_raises() -> None:
    def refusing(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        raise KeyError("grammar")

    rules = LogitRules(start=START, logits_processor=[refusing])
    with pytest.raises(KeyError, match="grammar") as raised:
        rules.apply([IDS], scores_of(6))
    if sys.version_info >= (3, 11):
        note = f"qkv: raised by the logits_processor refusing at step {len(IDS) - START + 1}"
        assert raised.value.__notes__ == [note]


@pytest.mark.parametrize(
    ("result", "found"),
    [
        (None, "None"),
        (np.zeros(VOCAB), r"float64 \[30\]"),
        (np.zeros(VOCAB - 1, np.float32), r"float32 \[29\]"),
        (np.zeros((1, VOCAB), np.float32), r"float32 \[1, 30\]"),
        (torch.zeros(VOCAB), "tensor"),
    ],
)
def test_a_processor_that_returns_something_else(result: Any, found: str) -> None:
    class Grammar:
        def __call__(self, ids: np.ndarray, logits: np.ndarray) -> Any:
            return result

    expected = rf"logits_processor Grammar returned {found}.* at step 1; expected float32 \[30\]"
    with pytest.raises(qkv.Error, match=expected):
        LogitRules(start=len(IDS), logits_processor=[Grammar()]).apply([IDS], scores_of(6))
