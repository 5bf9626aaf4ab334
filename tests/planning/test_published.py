"""Parameters of models at their published sizes, beside transformers' own classes, which take no memory on "meta"."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import transformers
from tests.planning.published import PUBLISHED

import qkv
from qkv.models import SUPPORTED

# transformers 5 always ties T5's output layer. This checkpoint holds one of its own, [32128, 768].
UNTIED = {"google/flan-t5-base": 32128 * 768}

# Marian's positions are sinusoids: a checkpoint may hold them, and they can be computed.
CLOSE = {"Helsinki-NLP/opus-mt-en-de": 0.01}


class Counted(NamedTuple):
    """As transformers counts: parameters, no pooler; and BART's bias of the logits, which is in checkpoints but no
    parameter to train."""

    whole: int
    bias: int


@functools.lru_cache
def counted(name: str) -> Counted:
    config = PUBLISHED[name][1]
    with torch.device("meta"):
        model = getattr(transformers, config["architectures"][0])(transformers.AutoConfig.for_model(**config))

    def parameters(of: torch.nn.Module) -> int:
        return sum(p.numel() for key, p in of.named_parameters() if "pooler" not in key)

    bias = sum(b.numel() for key, b in model.named_buffers() if key == "final_logits_bias")
    return Counted(parameters(model) + UNTIED.get(name, 0), bias)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_is_right(name: str) -> None:
    assert counted(name).whole == PUBLISHED[name][0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters(name: str, tmp_path: Path) -> None:
    of = counted(name)
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name][1]))
    found = qkv.plan(tmp_path, measure=False)
    expected = of.whole + of.bias
    assert found.parameters == pytest.approx(expected, rel=CLOSE.get(name, 0), abs=0)
    values = found.weights["float32"].nbytes / 4
    assert values == pytest.approx(expected, rel=0.01)  # panels are filled up with a few columns
    assert found.weights["bfloat16"].nbytes == pytest.approx(2 * values, rel=0.01)


def test_every_architecture_has_a_published_size() -> None:
    """But gemma3, whose text model is gemma3_text, and the config that nobody publishes."""
    planned = {config["model_type"] for _, config in PUBLISHED.values()}
    assert planned == set(SUPPORTED) - {"gemma3", "transformer"}
