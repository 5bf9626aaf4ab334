"""Generation where an encoder reads the prompt, against transformers and the checkpoint's own generation config."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.generation.decoders import byte_level_bpe
from tests.tiny import CASES

import qkv
from qkv.generation.options import Options

SOURCES = [[5], [9, 8, 7, 6], list(range(20, 90)), [31] * 40]
FAMILIES = ["t5", "bart", "mbart", "marian"]


@pytest.fixture(scope="module", params=FAMILIES)
def twins(request: pytest.FixtureRequest, tiny: Any) -> tuple[qkv.Model, Any]:
    return qkv.load(tiny(request.param), num_threads=2), CASES[request.param].make()


def greedy(reference: Any, source: list[int], tokens: int, **options: Any) -> list[int]:
    """Behind the start token."""
    with torch.no_grad():
        made = reference.generate(torch.tensor([source]), max_new_tokens=tokens, do_sample=False, **options)
    return made[0, 1:].tolist()


@pytest.mark.parametrize("tokens", [1, 2, 30])
def test_own_generation_config(twins: Any, tokens: int) -> None:
    """End of sequence, forced first and last tokens and all: a batch, each as transformers makes it alone."""
    model, reference = twins
    for source, made in zip(SOURCES, model.generate(SOURCES, max_new_tokens=tokens), strict=True):
        assert made.token_ids == greedy(reference, source, tokens)
        assert made.prompt_tokens == len(source)


def test_forced_and_forbidden_tokens(twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, reference = twins
    free = greedy(reference, SOURCES[1], 20, eos_token_id=None, forced_bos_token_id=None, forced_eos_token_id=None)
    rules = {
        "forced_bos_token_id": 11,
        "forced_eos_token_id": 12,
        "suppress_tokens": sorted(set(free))[::2],
        "bad_words_ids": [[free[0]], free[1:3], free[4:7]],
    }
    expected = greedy(reference, SOURCES[1], 20, eos_token_id=None, **rules)
    assert expected[0] == 11
    assert expected[-1] == 12
    assert expected[1:-1] != free[1:-1]
    monkeypatch.setattr(model, "generation_config", model.generation_config | rules | {"eos_token_id": []})
    assert model.generate(SOURCES[1], max_new_tokens=20).token_ids == expected


def test_rules_of_an_older_config(tiny: Any, tmp_path: Path) -> None:
    """Without generation_config.json the rules are those of config.json; with it they are not."""
    copy = shutil.copytree(tiny("marian"), tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    rules = {"forced_bos_token_id": 4, "forced_eos_token_id": 6, "bad_words_ids": [[100]], "eos_token_id": 6}
    (copy / "config.json").write_text(json.dumps(config | rules))
    (copy / "generation_config.json").write_text('{"eos_token_id": 0, "suppress_tokens": [9]}')
    options = Options.choose(qkv.load(copy), {})
    assert (options.eos_token_id, options.suppress_tokens, options.forced_bos_token_id) == ((0,), (9,), None)
    (copy / "generation_config.json").unlink()
    options = Options.choose(qkv.load(copy), {})
    assert (options.eos_token_id, options.forced_bos_token_id, options.forced_eos_token_id) == ((6,), 4, 6)
    assert options.bad_words_ids == ((100,),)


def test_rules_that_are_none(twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = twins
    for key, value in (
        ("forced_bos_token_id", "7"), ("suppress_tokens", [True]), ("bad_words_ids", [[]]), ("bad_words_ids", 5),
        ("decoder_start_token_id", 103), ("decoder_start_token_id", [3]),
    ):  # fmt: skip
        monkeypatch.setattr(model, "generation_config", {"eos_token_id": 1, key: value})
        with pytest.raises(qkv.Error, match=key):
            model.generate([5])


def test_batch_threads_and_chunks_change_nothing(twins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = twins
    alone = [model.generate(source, max_new_tokens=20) for source in SOURCES]
    assert model.generate(SOURCES, max_new_tokens=20) == alone
    monkeypatch.setattr("qkv.generation.scheduler.PREFILL_TOKENS", 1)
    monkeypatch.setattr("qkv.source.SOURCE_TOKENS", 50)
    assert model.generate(SOURCES, max_new_tokens=20) == alone


def test_sampling_is_repeatable(twins: Any) -> None:
    model, _ = twins
    options = {"max_new_tokens": 20, "do_sample": True, "temperature": 3.0, "seed": 3}
    one, two = model.generate(SOURCES, **options), model.generate(SOURCES, **options)
    assert one == two
    assert [made.token_ids for made in one] != [made.token_ids for made in model.generate(SOURCES, max_new_tokens=20)]


def test_company_over_one_source_changes_nothing(twins: Any) -> None:
    """Samples of one prompt attend to its source together."""
    options = {"max_new_tokens": 20, "do_sample": True, "seed": 3, "logprobs": 2, "eos_token_id": []}
    for source in SOURCES:
        several = twins[0].generate(source, num_return_sequences=7, **options)
        assert several[0] == twins[0].generate(source, **options)
        assert len({tuple(made.token_ids) for made in several}) > 1


def test_pages_of_sources_are_given_back(twins: Any) -> None:
    model, _ = twins
    cache = model.read_source([np.array([5], np.int32)]).cache

    class Stop:
        seen = 0

        def put(self, ids: np.ndarray) -> None:
            self.seen += 1
            if self.seen == 3:  # the start token, a new one, and another
                assert cache.pages_in_use
                raise KeyboardInterrupt

        def end(self) -> None: ...

    model.generate(SOURCES, max_new_tokens=5)
    assert cache.pages_in_use == 0
    with pytest.raises(KeyboardInterrupt):
        model.generate([5], max_new_tokens=5, streamer=Stop())
    assert cache.pages_in_use == 0
    assert model.kv_pool.reserved == 0


def test_text_in_text_out(tiny: Any, tmp_path: Path) -> None:
    """Only the new text, without a memory of the prompt, in pieces or at once."""
    torch.manual_seed(1)
    config = CASES["t5"].options | {"vocab_size": 400, "initializer_factor": 2.5}

    reference = transformers.T5ForConditionalGeneration(transformers.T5Config(**config)).eval()
    reference.generation_config.update(bad_words_ids=[[0], *([token, token] for token in range(400))])
    reference.save_pretrained(tmp_path)
    byte_level_bpe().save(str(tmp_path / "tokenizer.json"))
    model = qkv.load(tmp_path)
    assert model.tokenizer is not None
    text = "To be, or not to be"
    made = model.generate(text, max_new_tokens=20)
    assert made.token_ids == greedy(reference, model.tokenizer.encode(text).ids, 20)
    assert made.text == model.tokenizer.decode(made.token_ids)
    assert made.text
    assert "".join(model.generate(text, max_new_tokens=20, stream=True)) == made.text
    seen: list[np.ndarray] = []

    class Streamer:
        def put(self, ids: np.ndarray) -> None:
            seen.append(ids)

        def end(self) -> None: ...

    model.generate(text, max_new_tokens=20, streamer=Streamer())
    assert np.concatenate(seen).tolist() == [0, *made.token_ids]


def test_prompts_that_do_not_fit(tiny: Any) -> None:
    model = qkv.load(tiny("bart"))
    full = model.generate([5] * 400, max_new_tokens=500)
    assert full.prompt_tokens == 400
    assert len(full.token_ids) <= 399  # the decoder's positions are as many, and begin with the start token
    for prompt, message in (
        ([5] * 401, "the prompt has 401 tokens; the model's encoder reads at most 400"),
        ([[5], []], "prompt 1 is empty: there is nothing for the encoder to read"),
        ([103], "token id 103"),
        ("text", "no tokenizer"),
    ):
        with pytest.raises(qkv.Error, match=message):
            model.generate(prompt)


def test_positions_without_an_end(tiny: Any) -> None:
    model = qkv.load(tiny("t5"))
    assert model.context_length is None
    model.generation_config["eos_token_id"] = []
    assert len(model.generate([5] * 700, max_new_tokens=150).token_ids) == 150


def test_start_token(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = qkv.load(tiny("bart"))
    monkeypatch.setattr(model, "generation_config", {"bos_token_id": 3, "decoder_start_token_id": 9})
    first = [np.argmax(model.logits([[5, 6]], decoder_ids=[[start]])[0]) for start in (9, 3)]
    assert model.generate([5, 6], max_new_tokens=1).token_ids == [first[0]]
    monkeypatch.setattr(model, "generation_config", {"bos_token_id": 3})
    monkeypatch.setattr(model.config, "decoder_start_token_id", None)
    assert model.generate([5, 6], max_new_tokens=1).token_ids == [first[1]]
    monkeypatch.setattr(model, "generation_config", {})
    monkeypatch.setattr(model.config, "bos_token_id", None)
    with pytest.raises(qkv.Error, match="decoder_start_token_id of the checkpoint is None"):
        model.generate([5, 6])
