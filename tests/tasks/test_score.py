"""Log probabilities of texts against transformers, with log_softmax in float64."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from scipy.special import log_softmax
from tests.generation.decoders import byte_level_bpe, make_decoder
from tests.tiny import CASES
from tokenizers import processors

import qkv
from qkv.tasks import score_runs

TEXTS = ["To be, or not to be", "The slings and arrows of outrageous fortune " * 8, "Voilà 🙂", "nobler in the mind"]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[qkv.Model, Any]:
    folder = tmp_path_factory.mktemp(request.param)
    theirs = make_decoder(request.param, folder)
    return qkv.load(folder, num_threads=2), theirs


@pytest.fixture(scope="module", params=["t5", "bart"])
def translator(request: pytest.FixtureRequest, tiny: Any) -> tuple[qkv.Model, Any]:
    return qkv.load(tiny(request.param), num_threads=2), CASES[request.param].make()


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> tuple[qkv.Model, Any]:
    folder = tmp_path_factory.mktemp("masked")
    tokenizer = byte_level_bpe()
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[MASK]"])
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    options = CASES["bert-mlm"].options | {"vocab_size": 403, "initializer_range": 0.15}
    model = transformers.BertForMaskedLM(transformers.BertConfig(**options)).eval()
    model.save_pretrained(folder)
    return qkv.load(folder, num_threads=2), model


def logprobs(model: Any, ids: list[int], **more: Any) -> np.ndarray:
    """float64 [tokens, vocab]"""
    with torch.no_grad():
        return log_softmax(model(torch.tensor([ids]), **more).logits[0].numpy().astype(np.float64), axis=-1)


def check(score: Any, table: np.ndarray, tokens: list[int]) -> None:
    """`table`: log probabilities of the tokens' places."""
    expected = table[np.arange(len(tokens)), tokens]
    assert score.token_ids == tokens
    np.testing.assert_allclose(score.logprobs, expected, rtol=0, atol=1e-4)
    assert score.total == pytest.approx(expected.sum(), abs=1e-4 * len(tokens))
    assert score.perplexity == pytest.approx(math.exp(-expected.mean()), rel=1e-4)
    assert score.is_greedy == bool((table.argmax(-1) == tokens).all())


def greedy(model: Any, ids: list[int], count: int) -> list[int]:
    for _ in range(count):
        ids = [*ids, int(logprobs(model, ids)[-1].argmax())]
    return ids


def test_texts(decoder: Any) -> None:
    model, reference = decoder
    for text, score in zip(TEXTS, model.score(TEXTS), strict=True):
        ids = model.tokenizer.encode(text).ids
        check(score, logprobs(reference, ids)[:-1], ids[1:])


def test_token_ids(decoder: Any) -> None:
    model, reference = decoder
    rng = np.random.default_rng(0)
    long = rng.integers(0, 400, 641)  # nothing follows the last token, so it need not fit the context of 640
    likely = greedy(reference, [7, 8], 6)
    found = model.score([long, [5, 9], likely, ([3, 4, 5], [6, 7]), (likely[:4], likely[4:])])
    for ids, score in zip((long.tolist(), [5, 9], likely), found[:3], strict=True):
        if len(ids) <= 640:
            check(score, logprobs(reference, ids)[:-1], ids[1:])
        else:
            check(score, logprobs(reference, ids[:-1]), ids[1:])
    check(found[3], logprobs(reference, [3, 4, 5, 6, 7])[2:-1], [6, 7])
    assert found[4].is_greedy
    assert not found[3].is_greedy


@pytest.mark.parametrize(
    ("context", "text"),
    [("To be,", " or not"), ("To be, ", "or not"), ("To be,  \n", "or not"), ("quest", "ion: whether"), (" ", "To be")],
)
def test_the_border_of_a_pair(decoder: Any, context: str, text: str) -> None:
    """As lm-evaluation-harness's `_encode_pair` has it."""
    model, reference = decoder
    spaces = len(context) - len(context.rstrip())
    before, after = (context[:-spaces], context[-spaces:] + text) if spaces else (context, text)
    first, whole = (model.tokenizer.encode(text).ids for text in (before, before + after))
    last = whole[len(first) :]
    if not first:  # an empty context is one token
        if model.model_type == "llama":  # which has no such token
            with pytest.raises(qkv.Error, match="no token that begins or ends a text"):
                model.score([(context, text)])
            return
        first = [0]
    (score,) = model.score([(context, text)])
    check(score, logprobs(reference, first + last)[len(first) - 1 : -1], last)


def test_special_tokens_of_the_tokenizer(tmp_path: Path) -> None:
    """A token that begins texts is context; one that ends them counts in a text, and is not between two."""
    reference = make_decoder("gpt2", tmp_path)
    tokenizer = byte_level_bpe()
    tokenizer.post_processor = processors.TemplateProcessing("<|end|> $A <|end|>", special_tokens=[("<|end|>", 0)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = qkv.load(tmp_path)
    plain = tokenizer.encode("To be or", add_special_tokens=False).ids
    text, pair = model.score(["To be or", ("To be", " or")])
    check(text, logprobs(reference, [0, *plain, 0])[:-1], [*plain, 0])
    check(pair, logprobs(reference, [0, *plain])[len(plain) - 1 : -1], plain[-1:])


def test_an_encoder_with_a_decoder(translator: Any) -> None:
    model, reference = translator
    rng = np.random.default_rng(0)
    pairs = [(rng.integers(3, 90, a).tolist(), rng.integers(3, 90, b).tolist()) for a, b in ((5, 1), (70, 9), (3, 80))]
    start = reference.generation_config.decoder_start_token_id
    for (source, target), score in zip(pairs, model.score(pairs), strict=True):
        table = logprobs(reference, source, decoder_input_ids=torch.tensor([[start, *target[:-1]]]))
        check(score, table, target)


def test_a_masked_language_model(masked: Any) -> None:
    model, reference = masked
    mask = model.tokenizer.token_to_id("[MASK]")
    ids = model.tokenizer.encode(TEXTS[3]).ids
    for text, score in zip([*TEXTS, ids], model.score([*TEXTS, ids]), strict=True):
        ids = model.tokenizer.encode(text).ids if isinstance(text, str) else text
        rows = []
        for i in range(1, len(ids) - 1):
            rows.append(logprobs(reference, [*ids[:i], mask, *ids[i + 1 :]])[i])
        check(score, np.array(rows), ids[1:-1])


@pytest.mark.parametrize("tokens", [3, 64])
def test_same_bits_in_any_company(decoder: Any, translator: Any, masked: Any, tokens: int, monkeypatch: Any) -> None:
    pairs = [([5, 6, 7], [9] * 30), ([8] * 40, [3, 4])]
    for model, texts in ((decoder[0], TEXTS), (translator[0], pairs), (masked[0], TEXTS)):
        together = model.score(texts)
        assert [model.score([text])[0] for text in texts] == together
        with monkeypatch.context() as small:
            for name in ("PREFILL_TOKENS", "_MASKED_TOKENS", "SOURCE_TOKENS"):
                small.setattr(score_runs, name, tokens)
            if model.is_causal:
                model.kv_pool.clear()
            assert model.score(texts) == together


def test_a_context_is_read_once(decoder: Any, monkeypatch: Any) -> None:
    """Of a question and its answers, as far as it fills pages; and no more memory is held than the pool has."""
    model = decoder[0]
    context = [int(i) for i in np.random.default_rng(3).integers(5, 300, 570)]
    pairs = [(context, [7, 8]), (context, [9]), (context, [7, 9, 11])]
    alone = []
    for pair in pairs:
        model.kv_pool.clear()
        alone += model.score([pair])
    model.kv_pool.clear()
    read: list[int] = []
    run = model.run_batch

    def counting(outputs: Any, batch: Any, *cancel: Any) -> Any:
        read.append(batch.tokens)
        return run(outputs, batch, *cancel)

    monkeypatch.setattr(model, "run_batch", counting)
    assert model.score(pairs) == alone
    assert sum(read) < 570 + 3 * 70
    assert model.kv_pool.reserved == 0


def test_texts_wait_for_room_in_a_small_pool(tmp_path: Any) -> None:
    make_decoder("gpt2", tmp_path)
    model = qkv.load(tmp_path)
    small = qkv.load(tmp_path, kv_cache_bytes=4 * model.kv_pool.cache.page_nbytes)
    texts = [[int(i) for i in np.random.default_rng(k).integers(5, 300, 200)] for k in range(5)]
    assert small.score(texts) == model.score(texts)
    assert small.kv_pool.reserved == 0
    with pytest.raises(qkv.Error, match="kv_cache_bytes"):
        small.score([[5] * 300])


@pytest.mark.parametrize(("window", "stride"), [(64, 64), (64, 32), (50, 7), (300, None), (None, None)])
def test_perplexity_of_a_long_text(decoder: Any, window: int | None, stride: int | None) -> None:
    """The recipe of Hugging Face's page on fixed-length models, with the mean over the tokens that have a loss."""
    model, reference = decoder
    text = " ".join(TEXTS) * 3
    ids = torch.tensor([model.tokenizer.encode(text).ids])
    assert ids.shape[1] > 300
    most = window or 640
    total, tokens, previous = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride or most // 2):
        end = min(begin + most, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, : -(end - previous)] = -100
        with torch.no_grad():
            loss = reference(ids[:, begin:end], labels=labels).loss.item()
        count = int((labels[:, 1:] != -100).sum())
        if count:
            total, tokens = total + loss * count, tokens + count
        previous = end
        if end == ids.shape[1]:
            break
    assert model.perplexity(text, window=window, stride=stride) == pytest.approx(math.exp(total / tokens), rel=1e-4)
    assert model.perplexity(ids[0].tolist(), window=window, stride=stride) == model.perplexity(
        text, window=window, stride=stride
    )


def test_progress(decoder: Any, masked: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(score_runs, "PREFILL_TOKENS", 20)
    monkeypatch.setattr(score_runs, "_MASKED_TOKENS", 40)
    for model in (decoder[0], masked[0]):
        done, of = [], set()

        def note(some: int, all_: int, done: list[int] = done, of: set[int] = of) -> None:
            done.append(some)
            of.add(all_)

        scores = model.score(TEXTS, progress=note)
        assert len(done) > 5
        assert done == sorted(done)
        assert of == {done[-1]} == {sum(len(score.logprobs) for score in scores)}


def test_what_progress_raises_ends_it(decoder: Any) -> None:
    model, _ = decoder
    expected = model.score(TEXTS)

    def stop(_done: int, _all: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.score(TEXTS, progress=stop)
    assert model.score(TEXTS) == expected


def test_from_several_threads(decoder: Any) -> None:
    model, _ = decoder
    expected = model.score(TEXTS)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(model.score(TEXTS))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3


def test_nothing_to_do(decoder: Any, masked: Any) -> None:
    assert decoder[0].score([]) == masked[0].score([]) == []


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("text", "expected a list of texts"),
        (5, "expected a list of texts"),
        (["To be", ""], r"texts\[1\]: the text is empty"),
        ([("To be", "")], r"texts\[0\]: the second text is empty"),
        ([([1, 2], [])], "the second text is empty"),
        ([[3]], "has one token, with nothing before it"),
        ([[3, 400]], "holds token id 400; expected 0 to 399"),
        ([[1] * 642], "641 tokens to read; the model takes at most 640"),
        ([("text", [1])], "one half is text"),
        (["\ud800"], "not valid Unicode"),
        ([3.5], "token ids"),
    ],
)
def test_bad_texts(decoder: Any, texts: Any, message: str) -> None:
    with pytest.raises(qkv.Error, match=message):
        decoder[0].score(texts)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "the text has 0 tokens"),
        ([1], {}, "the text has 1 tokens"),
        ("To be", {"stride": 0}, "stride is 0; expected 1 to"),
        ("To be", {"stride": 9, "window": 8}, "stride is 9; expected 1 to the window's 8"),
        ("To be", {"window": 641}, "window is 641; expected 2 to 640"),
        ("To be", {"window": 1}, "window is 1;"),
        ("To be", {"window": 8.0}, "window is 8.0"),
    ],
)
def test_bad_arguments_of_perplexity(decoder: Any, text: Any, options: Any, message: str) -> None:
    with pytest.raises(qkv.Error, match=message):
        decoder[0].perplexity(text, **options)


def test_models_that_cannot(tiny: Any, translator: Any, masked: Any) -> None:
    for method in ("score", "perplexity"):
        with pytest.raises(qkv.Error, match=f"{method}: this model has no head that predicts tokens"):
            getattr(qkv.load(tiny("bert")), method)(["text"])
        with pytest.raises(qkv.Error, match="no head"):
            getattr(qkv.load(tiny("bert-sequences")), method)(["text"])
    for model in (translator[0], masked[0]):
        with pytest.raises(qkv.Error, match="only a decoder reads a text"):
            model.perplexity("text")
    with pytest.raises(qkv.Error, match="no tokenizer, which would tell the token to mask"):
        qkv.load(tiny("bert-mlm")).score([[5, 6]])
    with pytest.raises(qkv.Error, match="no tokenizer; give token ids"):
        qkv.load(tiny("llama")).score(["text"])
    with pytest.raises(qkv.Error, match=r"expected a pair \(source, target\)"):
        translator[0].score([[5, 6]])
    with pytest.raises(qkv.Error, match="the source is empty"):
        translator[0].score([([], [5])])
    with pytest.raises(qkv.Error, match="scores texts, not pairs"):
        masked[0].score([("a", "b")])
    with pytest.raises(qkv.Error, match="is empty"):
        masked[0].score([""])
    with pytest.raises(qkv.Error, match="takes at most 200"):
        masked[0].score([[5] * 201])
