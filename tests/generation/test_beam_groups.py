"""Diverse beam search (Vijayakumar et al. 2018) against a plain implementation on transformers' models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.tiny import CASES

import qkv

PROMPT = [9, 8, 7, 6, 30]
TOKENS = 12
Hypothesis = tuple[float, list[int]]  # score, new tokens


class Reference:
    """Each group is a beam search of its own, except that a token costs `penalty` for each time that a group before it
    chose it in the same step. All texts are made of whole lists, and every step reads them from the beginning."""

    def __init__(self, model: Any, end: list[int], size: int, length_penalty: float, early: Any) -> None:
        self.model, self.end, self.size, self.length_penalty, self.early = model, end, size, length_penalty, early

    def logprobs(self, texts: list[list[int]]) -> np.ndarray:
        """Of the next token: [texts, vocab]."""
        with torch.no_grad():
            if self.model.config.is_encoder_decoder:
                start = self.model.config.decoder_start_token_id
                read = torch.tensor([[start, *text] for text in texts])
                logits = self.model(torch.tensor([PROMPT] * len(texts)), decoder_input_ids=read).logits
            else:
                logits = self.model(torch.tensor([[*PROMPT, *text] for text in texts])).logits
        return torch.log_softmax(logits[:, -1].double(), -1).numpy()

    def search(self, groups: int, penalty: float) -> list[Hypothesis]:
        running: list[list[Hypothesis]] = [[(0.0, [])] for _ in range(groups)]
        finished: list[list[Hypothesis]] = [[] for _ in range(groups)]
        for length in range(1, TOKENS + 1):
            chosen = np.zeros(self.model.config.vocab_size)
            for g in range(groups):
                if running[g]:
                    self.step(g, length, running, finished, chosen, penalty)
        return sorted((h for group in finished for h in group), key=lambda h: -h[0])

    def step(
        self, g: int, length: int, running: list[Any], finished: list[Any], chosen: np.ndarray, penalty: float
    ) -> None:
        texts = [text for _, text in running[g]]
        sums = np.array([[total] for total, _ in running[g]]) + self.logprobs(texts) - penalty * chosen
        rank = np.argsort(-sums, axis=None)[: (1 + max(1, len(self.end))) * self.size]
        best = [(sums.flat[i], [*texts[i // sums.shape[1]], int(i % sums.shape[1])]) for i in rank]
        going = [h for h in best if h[1][-1] not in self.end][: self.size]
        ended = [h for h in best[: self.size] if h[1][-1] in self.end or length == TOKENS]
        ended = [(total / length**self.length_penalty, text) for total, text in ended]
        finished[g] = sorted(finished[g] + ended, key=lambda h: -h[0])[: self.size]
        for _, text in going:
            chosen[text[-1]] += 1
        running[g] = [] if length == TOKENS or self.done(going, finished[g], length) else going

    def done(self, going: list[Hypothesis], finished: list[Hypothesis], length: int) -> bool:
        if len(finished) < self.size or self.early is True:
            return len(finished) == self.size
        if self.early == "never" and self.length_penalty > 0:
            length = TOKENS
        return finished[-1][0] >= going[0][0] / length**self.length_penalty


@pytest.mark.parametrize("case", ["gpt2", "t5"])
@pytest.mark.parametrize(
    ("beams", "groups", "penalty", "length_penalty", "early", "ends"),
    [
        (4, 2, 0.5, 1.0, False, 0), (4, 4, 2.0, 0.0, True, 1), (6, 3, 0.1, 2.0, "never", 2), (6, 2, 2.0, 0.6, False, 2),
        (6, 3, 0.5, 1.0, True, 2), (4, 4, 0.1, 1.0, False, 1), (4, 2, 0.0, 1.0, "never", 1), (3, 3, 1.0, 2.0, True, 0),
    ],
)  # fmt: skip
def test_equals_plain_implementation(
    tiny: Any, case: str, beams: int, groups: int, penalty: float, length_penalty: float, early: Any, ends: int
) -> None:
    end = {"gpt2": [94, 17], "t5": [40, 101]}[case][:ends]
    model = qkv.load(tiny(case), num_threads=2)
    made = model.generate(
        PROMPT, num_beams=beams, num_beam_groups=groups, diversity_penalty=penalty, length_penalty=length_penalty,
        early_stopping=early, eos_token_id=end, max_new_tokens=TOKENS, num_return_sequences=beams, bad_words_ids=[],
    )  # fmt: skip
    expected = Reference(CASES[case].make(), end, beams // groups, length_penalty, early).search(groups, penalty)
    assert [m.token_ids for m in made] == [text for _, text in expected]
    np.testing.assert_allclose([m.score for m in made], [score for score, _ in expected], atol=1e-4)


def test_groups_differ(tiny: Any) -> None:
    """A large penalty keeps groups from choosing the same token at the same place; without one they are all alike."""
    model = qkv.load(tiny("gpt2"), num_threads=2)
    options = {"num_beams": 4, "num_beam_groups": 4, "num_return_sequences": 4, "max_new_tokens": TOKENS}
    apart = model.generate(PROMPT, diversity_penalty=1e4, eos_token_id=[], **options)
    for place in range(TOKENS):
        assert len({made.token_ids[place] for made in apart}) == 4
    alike = model.generate(PROMPT, diversity_penalty=0.0, eos_token_id=[], **options)
    greedy = model.generate(PROMPT, eos_token_id=[], max_new_tokens=TOKENS)
    assert [made.token_ids for made in alike] == [greedy.token_ids] * 4


def test_batch_equals_one_by_one(tiny: Any) -> None:
    """Also beside requests whose groups end at other times."""
    model = qkv.load(tiny("gpt2"), num_threads=2)
    prompts = [PROMPT, [5], list(range(20, 90))]
    options = {
        "num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 1.0, "num_return_sequences": 6,
        "max_new_tokens": TOKENS, "eos_token_id": [94, 17], "early_stopping": True,
    }  # fmt: skip
    alone = [model.generate(prompt, **options) for prompt in prompts]
    assert model.generate(prompts, **options) == alone
