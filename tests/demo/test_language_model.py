"""The language model that ships with the package says what docs/language-model.md says it does."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

import qkv

ROOT = Path(__file__).parents[2]
WINDOW = 256


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(str(files("qkv.demo") / "shakespeare"))


def mean_loss(model: qkv.Model, ids: list[int]) -> float:
    """Mean negative log-likelihood in nats, as the page defines it: windows of 256 that start afresh."""
    windows = [ids[i : i + WINDOW] for i in range(0, len(ids), WINDOW)]
    total, count = 0.0, 0
    for start in range(0, len(windows), 32):
        batch = windows[start : start + 32]
        for window, logits in zip(batch, model.logits(batch), strict=True):
            scores = logits[:-1].astype(np.float64)
            top = scores.max(1, keepdims=True)
            log_sums = top[:, 0] + np.log(np.exp(scores - top).sum(1))
            total += (log_sums - scores[np.arange(len(window) - 1), window[1:]]).sum()
            count += len(window) - 1
    return total / count


# Shares by which the perplexity may differ. The checkpoint holds bfloat16, so that only its activations are rounded.
@pytest.mark.parametrize(("dtype", "bar"), [("float32", 1e-4), ("bfloat16", 1e-3), ("int8", 5e-3), ("int4", 5e-3)])
def test_validation_loss_is_what_the_docs_state(folder, dtype, bar) -> None:
    page = (ROOT / "docs/language-model.md").read_text(encoding="utf-8")
    stated = float(re.search(r"validation loss\*\* \| \*\*([\d.]+) nats", page).group(1))
    model = qkv.load(folder, dtype=dtype)
    text = (ROOT / "tests/data/shakespeare-validation.txt").read_text(encoding="utf-8")
    ids = model.tokenizer.encode(text, add_special_tokens=False).ids
    assert len(ids) == 49_422
    assert mean_loss(model, ids) == pytest.approx(stated, abs=np.log1p(bar))


def test_size(folder) -> None:
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 8_000_000


def test_greedy_text_equals_transformers(folder) -> None:
    import torch
    import transformers

    reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model = qkv.load(folder, dtype="float32")
    prompt = model.tokenizer.encode("ROMEO:\n").ids
    with torch.no_grad():
        expected = reference.generate(torch.tensor([prompt]), max_new_tokens=256, do_sample=False)[0, len(prompt) :]
    assert model.generate(prompt, max_new_tokens=256, do_sample=False).token_ids == expected.tolist()
