"""Contrastive search (Su et al. 2022) against a plain implementation on transformers' models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny import CASES

import qkv

PROMPT = [9, 8, 7, 6, 30]
TOKENS = 12


def reference(model: Any, prompt: list[int], alpha: float, top_k: int, end: list[int]) -> list[int]:
    """Every candidate's text is read from its beginning."""
    behind_encoder = model.config.is_encoder_decoder
    start = [model.config.decoder_start_token_id] if behind_encoder else prompt
    ids = list(start)

    def read(texts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The last logits [texts, vocab] and all last hidden states [texts, tokens, hidden_size]."""
        with torch.no_grad():
            if behind_encoder:
                sources = torch.tensor([prompt] * len(texts))
                out = model(sources, decoder_input_ids=torch.tensor(texts), output_hidden_states=True)
                return out.logits[:, -1], out.decoder_hidden_states[-1]
            out = model(torch.tensor(texts), output_hidden_states=True)
            return out.logits[:, -1], out.hidden_states[-1]

    while len(ids) < len(start) + TOKENS and (len(ids) == len(start) or ids[-1] not in end):
        logits, _ = read([ids])
        likely, tokens = logits[0].softmax(-1).topk(top_k)
        _, hidden = read([[*ids, token] for token in tokens.tolist()])
        likeness = torch.nn.functional.cosine_similarity(hidden[:, -1:], hidden[:, :-1], dim=-1).amax(dim=1)
        ids.append(tokens[((1 - alpha) * likely - alpha * likeness).argmax()].item())
    return ids[len(start) :]


@pytest.mark.parametrize("case", ["gpt2", "llama", "t5", "bart", "marian"])
@pytest.mark.parametrize(("alpha", "top_k"), [(0.6, 4), (0.3, 7), (0.9, 2), (1.0, 5)])
def test_equals_plain_implementation(tiny: Any, case: str, alpha: float, top_k: int) -> None:
    model, theirs = qkv.load(tiny(case), num_threads=2), CASES[case].make()
    options = {"penalty_alpha": alpha, "top_k": top_k, "max_new_tokens": TOKENS}
    options |= {"bad_words_ids": [], "forced_bos_token_id": [], "forced_eos_token_id": []}
    made = model.generate(PROMPT, eos_token_id=[], **options)
    assert made.token_ids == reference(theirs, PROMPT, alpha, top_k, [])
    assert made.finish_reason == "length"
    end = made.token_ids[6:7]
    stopped = model.generate(PROMPT, eos_token_id=end, **options)
    assert stopped.token_ids == reference(theirs, PROMPT, alpha, top_k, end)
    assert stopped.finish_reason == "stop"


def test_prompts_in_chunks_and_batches(twins: Any, pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hidden states of a prompt count, however it is cut, and whatever is in the cache already."""
    prompts = [[84, 72, 69, 220, 300], list(range(40, 140)), [7]]
    options = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": TOKENS}
    made = [twins.ours.generate(prompt, **options) for prompt in prompts]
    assert [m.token_ids for m in made] == [reference(twins.theirs, prompt, 0.6, 4, []) for prompt in prompts]
    monkeypatch.setattr("qkv.generation.scheduler.PREFILL_TOKENS", 30)
    monkeypatch.setattr("qkv.generation.scheduler.PREFILL_TOKENS_BESIDE_DECODING", 30)
    assert twins.ours.generate(prompts, **options) == made


def test_rules_and_log_probabilities(twins: Any, pool: Any) -> None:
    options = {"penalty_alpha": 0.6, "top_k": 4, "max_new_tokens": TOKENS}
    free = twins.ours.generate(PROMPT, **options)
    banned = twins.ours.generate(PROMPT, suppress_tokens=free.token_ids[:3], logprobs=1, **options)
    assert not set(banned.token_ids) & set(free.token_ids[:3])
    (logits,) = twins.ours.logits([[*PROMPT, *banned.token_ids]])
    logprobs = torch.log_softmax(torch.from_numpy(logits[len(PROMPT) - 1 : -1]), -1)
    assert banned.logprobs is not None
    for noted, token, row in zip(banned.logprobs, banned.token_ids, logprobs, strict=True):
        assert noted.token == token
        assert noted.logprob == pytest.approx(row[token].item(), abs=1e-5)
        assert noted.top == pytest.approx({row.argmax().item(): row.max().item()}, abs=1e-5)
