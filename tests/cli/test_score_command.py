"""What `qkv score` prints, against what the package computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import qkv
from qkv.cli.app import app, main


def run(*arguments: object, stdin: str | None = None) -> str:
    result: Any = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    assert result.exit_code == 0, result.output
    return str(result.stdout)


def test_a_text(decoder: Path) -> None:
    (score,) = qkv.load(decoder).score(["To be, or not"])
    shown = run("score", decoder, "To be, or not")
    assert shown == (
        f"{len(score.token_ids)} tokens, log probability {score.total:.4f}, perplexity {score.perplexity:.4g}\n"
    )
    assert run("score", decoder, "-", stdin="To be, or not") == shown


def test_a_pair_as_json(decoder: Path) -> None:
    (score,) = qkv.load(decoder).score([("To be, ", "or not")])
    report = json.loads(run("score", decoder, "or not", "--context", "To be, ", "--json"))
    assert report == {
        "model": str(decoder),
        "token_ids": score.token_ids,
        "logprobs": score.logprobs,
        "total": score.total,
        "perplexity": score.perplexity,
        "is_greedy": score.is_greedy,
    }


def test_a_long_text(decoder: Path) -> None:
    text = "To be, or not to be, that is the question. " * 60
    expected = qkv.load(decoder).perplexity(text, stride=500)
    assert run("score", decoder, text, "--stride", 500) == f"perplexity {expected:.4g}\n"
    report = json.loads(run("score", decoder, text, "--stride", 500, "--json"))
    assert report == {"model": str(decoder), "stride": 500, "perplexity": expected}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["To be " * 400], "the model takes at most 640"),
        ([""], "the text is empty"),
        (["To be", "--stride", "5", "--context", "x"], "exclude each other"),
    ],
)
def test_what_cannot_be_scored(decoder: Path, arguments: list[str], message: str, capsys: Any) -> None:
    assert main(["score", str(decoder), *arguments]) == 2
    assert message in capsys.readouterr().err
