"""Sentence embeddings of real MiniLM against sentence-transformers, and what may be done with `encode`."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files

import numpy as np
import pytest
from scipy.stats import spearmanr

import qkv

AWKWARD = [
    "", " ", "a", "?", "UPPER case and Ümläuts", "日本語のテキスト", "emoji 🎉🎉", "new\nline\ttab", "x" * 300,
    "one two three " * 200, "the end.",
]  # fmt: skip


@pytest.fixture(scope="module")
def texts() -> list[str]:
    passages = json.loads(files("qkv.demo").joinpath("passages.json").read_text(encoding="utf-8"))["passages"]
    assert len(passages) >= 200
    return passages + AWKWARD


@pytest.fixture(scope="module")
def reference(minilm, texts):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm), device="cpu").encode(texts, batch_size=32)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_equals_sentence_transformers(minilm, texts, reference, isa) -> None:
    got = qkv.load(minilm).encode(texts)
    assert got.dtype == np.float32
    assert got.shape == (len(texts), 384)
    assert cosines(got, reference).min() >= 0.99999
    assert np.abs(got - reference).max() <= 1e-4  # normalised too, as modules.json says


def test_bfloat16_stays_close(minilm, texts, reference, isa) -> None:
    assert cosines(qkv.load(minilm, dtype="bfloat16").encode(texts), reference).min() >= 0.999


# Cosine of a text's embedding, smallest and mean; Spearman's correlation of all pairs' similarities with float32's.
@pytest.mark.parametrize(
    ("dtype", "least", "mean", "rank"),
    [("bfloat16", 0.999, 0.9999, 0.9999), ("int8", 0.98, 0.997, 0.995), ("int4", 0.85, 0.97, 0.96)],
)
def test_weight_types_rank_as_float32_does(minilm, texts, reference, dtype, least, mean, rank) -> None:
    model = qkv.load(minilm, dtype=dtype)
    got = model.encode(texts)
    seen = cosines(got, reference)
    assert seen.min() >= least
    assert seen.mean() >= mean
    count = len(texts) - len(AWKWARD)
    pairs = np.triu_indices(count, 1)
    similarities = [(x[:count] @ x[:count].T)[pairs] for x in (got, reference)]
    assert spearmanr(*similarities).statistic >= rank
    sizes = {
        "bfloat16": 2,
        "int8": 1,
        "int4": 0.82,
    }  # bytes per weight; half of MiniLM is its token table, int8 at most
    assert model.nbytes == pytest.approx(22.7e6 * sizes[dtype], rel=0.04)


def test_bits_do_not_depend_on_batches_or_order(minilm, texts) -> None:
    model = qkv.load(minilm, num_threads=2)
    expected = model.encode(texts)
    for size in (1, 7, 300):
        assert model.encode(texts, batch_size=size).tobytes() == expected.tobytes()
    assert model.encode(texts[::-1])[::-1].tobytes() == expected.tobytes()
    assert np.stack([model.encode(t) for t in texts[:20]]).tobytes() == expected[:20].tobytes()


def edited(minilm, tmp_path, pooling: dict[str, bool] | None, normalize: bool):
    """MiniLM with another pooling; None: without modules.json."""
    copy = shutil.copytree(minilm, tmp_path / "copy", copy_function=shutil.copyfile)
    modules = json.loads((copy / "modules.json").read_text())
    if pooling is None:
        (copy / "modules.json").unlink()
    else:
        (copy / "modules.json").write_text(json.dumps(modules if normalize else modules[:2]))
        config = json.loads((copy / "1_Pooling/config.json").read_text())
        (copy / "1_Pooling/config.json").write_text(json.dumps(config | {"pooling_mode_mean_tokens": False} | pooling))
    return copy


@pytest.mark.parametrize(
    "pooling",
    [{"pooling_mode_cls_token": True}, {"pooling_mode_max_tokens": True}, {"pooling_mode_lasttoken": True}],
)
def test_other_poolings(pooling, minilm, tmp_path, texts) -> None:
    from sentence_transformers import SentenceTransformer

    folder = edited(minilm, tmp_path, pooling, normalize=False)
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts[-30:])
    assert np.abs(qkv.load(folder).encode(texts[-30:]) - expected).max() <= 1e-4


def test_without_modules_mean_is_taken(minilm, tmp_path, texts) -> None:
    plain = qkv.load(edited(minilm, tmp_path, None, normalize=False)).encode(texts[:50])
    assert np.abs(np.linalg.norm(plain, axis=1) - 1).max() > 0.1
    again = qkv.load(tmp_path / "copy").encode(texts[:50], normalize_embeddings=True)
    assert np.abs(again - qkv.load(minilm).encode(texts[:50])).max() <= 1e-6


def test_shapes_and_bad_arguments(minilm, tiny_bert) -> None:
    model = qkv.load(minilm)
    assert model.encode("one").shape == (384,)
    assert model.tokenizer.truncation is None  # encode() cuts long texts with a tokenizer of its own
    assert model.encode([]).shape == (0, 384)
    with pytest.raises(qkv.Error, match="batch_size"):
        model.encode(["a"], batch_size=0)
    with pytest.raises(qkv.Error, match=r"texts\[1\] is not a string but int"):
        model.encode(["a", 3])
    with pytest.raises(qkv.Error, match="no tokenizer"):
        qkv.load(tiny_bert).encode(["a"])


def test_progress_goes_to_stderr(minilm, capsys) -> None:
    qkv.load(minilm).encode(["a", "b"], batch_size=1, show_progress_bar=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Encoding" in err
