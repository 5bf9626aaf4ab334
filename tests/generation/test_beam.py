"""Beam search against transformers: sequences identical, scores within 1e-4."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.tiny import CASES

import qkv

TOKENS = 20
PROMPTS = [[9, 8, 7, 6, 30], [5], list(range(20, 90))]
GRID: dict[str, tuple[Any, ...]] = {
    "num_beams": (2, 4, 5),
    "length_penalty": (0.0, 0.6, 1.0, 2.0),
    "early_stopping": (False, True, "never"),
    "n_best": (False, True),
    "no_repeat_ngram_size": (0, 3),
    "repetition_penalty": (1.0, 1.3),
    "end_tokens": (1, 2),
}


def pairwise(options: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Choices among which every two values of different options meet."""
    everything = [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]
    random.Random(0).shuffle(everything)
    seen: set[Any] = set()
    chosen = []
    for choice in everything:
        pairs = set(itertools.combinations(choice.items(), 2))
        if not pairs <= seen:
            seen |= pairs
            chosen.append(choice)
    return chosen


@dataclass
class Pair:
    """A tiny checkpoint, opened twice, and tokens that its beams often meet."""

    ours: qkv.Model
    theirs: Any
    common: list[int]

    def expected(self, prompt: list[int], end: list[int], **options: Any) -> list[tuple[list[int], float]]:
        """What transformers finds, best first: new tokens up to the first end token, and the score.

        Where forced tokens leave fewer texts than beams, transformers repeats one, with -1e9 for a sum.
        """
        ids = torch.tensor([prompt])
        with torch.no_grad():
            out = self.theirs.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, eos_token_id=end, pad_token_id=0,
                return_dict_in_generate=True, output_scores=True, **options,
            )  # fmt: skip
        rows = out.sequences[:, 1 if self.ours.encoder else len(prompt) :].tolist()
        best = zip(rows, out.sequences_scores.tolist(), strict=True)
        return [(_up_to(end, row), score) for row, score in best if score > -1e5]


def _up_to(end: list[int], row: list[int]) -> list[int]:
    return row[: next((i for i, token in enumerate(row) if token in end), len(row)) + 1]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["gpt2", "llama", "t5", "bart", "marian"])
def pair(request: pytest.FixtureRequest, tiny: Any) -> Pair:
    pair = Pair(qkv.load(tiny(request.param), num_threads=2), CASES[request.param].make(), [])
    rows = [ids for ids, _ in pair.expected(PROMPTS[0], [102], max_new_tokens=TOKENS, num_beams=4)]
    rows += [ids for ids, _ in pair.expected(PROMPTS[1], [102], max_new_tokens=TOKENS, num_beams=4)]
    pair.common = [rows[0][7], rows[1][11]]
    return pair


def as_list(made: Any) -> list[qkv.generation.Generation]:
    return made if isinstance(made, list) else [made]


def test_grid(pair: Pair) -> None:
    """Thinned, so that every two values meet once; the prompts take turns."""
    reasons = set()
    for number, choice in enumerate(pairwise(GRID)):
        options = {"max_new_tokens": TOKENS, **choice}
        end = pair.common[: options.pop("end_tokens")]
        options["num_return_sequences"] = options["num_beams"] if options.pop("n_best") else 1
        prompt = PROMPTS[number % len(PROMPTS)]
        made = as_list(pair.ours.generate(prompt, eos_token_id=end, **options))
        expected = pair.expected(prompt, end, **options)
        assert [m.token_ids for m in made] == [ids for ids, _ in expected], options
        np.testing.assert_allclose([m.score for m in made], [score for _, score in expected], atol=1e-4)
        for m in made:
            assert m.finish_reason == ("stop" if m.token_ids[-1] in end else "length")
            reasons.add(m.finish_reason)
    assert reasons == {"stop", "length"}, "the end tokens never or always occur: this compares little"
    pair.ours.kv_pool.clear()
    assert pair.ours.kv_pool.pages_in_use == 0


@pytest.mark.parametrize("tokens", [1, 2])
def test_few_tokens(pair: Pair, tokens: int) -> None:
    options = {"max_new_tokens": tokens, "num_beams": 3, "num_return_sequences": 3}
    made = as_list(pair.ours.generate(PROMPTS[0], eos_token_id=pair.common, **options))
    expected = pair.expected(PROMPTS[0], pair.common, **options)
    assert [m.token_ids for m in made] == [ids for ids, _ in expected]


def test_many_end_tokens(pair: Pair) -> None:
    """More than there are beams, all of them likely: other continuations are looked for further down."""
    likely = pair.ours.generate(PROMPTS[0], num_beams=6, num_return_sequences=6, max_new_tokens=2, eos_token_id=[])
    end = sorted({token for made in likely for token in made.token_ids})
    for early_stopping in (True, "never"):
        options = {
            "max_new_tokens": TOKENS,
            "num_beams": 2,
            "num_return_sequences": 2,
            "early_stopping": early_stopping,
        }
        made = as_list(pair.ours.generate(PROMPTS[0], eos_token_id=end, length_penalty=2.0, **options))
        expected = pair.expected(PROMPTS[0], end, length_penalty=2.0, **options)
        assert [m.token_ids for m in made] == [ids for ids, _ in expected]


def test_batch_equals_one_by_one(pair: Pair) -> None:
    options = {
        "max_new_tokens": TOKENS, "num_beams": 3, "num_return_sequences": 3, "eos_token_id": pair.common,
        "length_penalty": 0.0,
    }  # fmt: skip
    alone = [pair.ours.generate(prompt, **options) for prompt in PROMPTS]
    assert pair.ours.generate(PROMPTS, **options) == alone
    assert len({len(m.token_ids) for made in alone for m in made}) > 1


def test_log_probabilities_add_up_to_the_score(pair: Pair) -> None:
    made = as_list(
        pair.ours.generate(
            PROMPTS[0], max_new_tokens=TOKENS, num_beams=3, num_return_sequences=3, eos_token_id=pair.common[0],
            bad_words_ids=[], forced_bos_token_id=[], forced_eos_token_id=[], length_penalty=0.6, logprobs=2,
        )
    )  # fmt: skip
    for m in made:
        assert m.logprobs is not None
        assert m.score is not None
        assert [noted.token for noted in m.logprobs] == m.token_ids
        total = sum(noted.logprob for noted in m.logprobs)
        assert total / len(m.token_ids) ** 0.6 == pytest.approx(m.score, abs=1e-4)
        for noted in m.logprobs:
            assert len(noted.top) == 2
            assert max(noted.top.values()) >= noted.logprob
            assert noted.top.get(noted.token, noted.logprob) == noted.logprob


def test_unusable_logits(pair: Pair) -> None:
    """The error names the step, and the model goes on."""
    start = 1 if pair.ours.encoder else len(PROMPTS[0])
    for value, message in ((np.nan, "not finite"), (np.inf, "not finite"), (-np.inf, "no token that could come next")):

        def spoil(ids: np.ndarray, logits: np.ndarray, value: float = value) -> np.ndarray:
            return logits if len(ids) < start + 2 else np.full_like(logits, value)

        with pytest.raises(qkv.Error, match=f"step 3: .*{message}"):
            pair.ours.generate(PROMPTS[0], num_beams=3, max_new_tokens=8, logits_processor=[spoil])
    assert pair.ours.generate(PROMPTS[0], num_beams=3, max_new_tokens=8).token_ids


def test_few_tokens_allowed(pair: Pair) -> None:
    """Where fewer tokens may follow than there are beams, there are fewer beams."""

    def two_tokens(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        return np.where(np.isin(np.arange(len(logits)), [11, 12]), logits, -np.inf).astype(np.float32)

    made = pair.ours.generate(
        PROMPTS[0], num_beams=5, num_return_sequences=5, max_new_tokens=2, logits_processor=[two_tokens],
        bad_words_ids=[], forced_bos_token_id=[], forced_eos_token_id=[],
    )  # fmt: skip
    assert sorted(tuple(m.token_ids) for m in made) == [(11, 11), (11, 12), (12, 11), (12, 12)]


def test_stop_strings(twins: Any, pool: Any) -> None:
    """They end a beam, wherever the borders of tokens are."""
    prompt = [84, 72, 69, 220]
    free = twins.ours.generate(prompt, num_beams=4, num_return_sequences=4, max_new_tokens=TOKENS)
    middle = len(free[0].text) // 2
    stops = [free[0].text[middle - 1 : middle + 2], free[1].text[middle + 3 : middle + 5]]
    assert all("\ufffd" not in stop for stop in stops), "choose another prompt"
    options = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": TOKENS, "stop_strings": stops}
    reader = transformers.PreTrainedTokenizerFast(tokenizer_file=str(twins.folder / "tokenizer.json"))
    ids = torch.tensor([prompt])
    with torch.no_grad():
        out = twins.theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, eos_token_id=None, tokenizer=reader,
            return_dict_in_generate=True, output_scores=True, **options,
        )  # fmt: skip
    made = twins.ours.generate(prompt, **options)
    filled = -1  # behind a text that ended, without end tokens
    expected = [[token for token in row if token != filled] for row in out.sequences[:, len(prompt) :].tolist()]
    assert [m.token_ids for m in made] == expected
    np.testing.assert_allclose([m.score for m in made], out.sequences_scores, atol=1e-4)
    assert "stop" in {m.finish_reason for m in made}
    for m in made:
        assert not any(stop in m.text for stop in stops)
        assert (m.finish_reason == "stop") == any(stop in reader.decode(m.token_ids) for stop in stops)
