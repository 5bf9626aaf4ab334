"""`qkv plan`: the same figures as `qkv.plan`, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import qkv
from qkv.bench import CEILINGS, Machine
from qkv.cli.app import app


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["plan", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(autouse=True)
def ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that needs no measuring."""
    monkeypatch.setattr(Machine, "steady_ceiling", lambda self, of: 20e9 if of == "memory" else 300e9)


def test_figures_for_programs(decoder: Path) -> None:
    report = json.loads(run(decoder, "--json", "--threads", 2, "--prompt-tokens", 5).stdout)
    expected = qkv.plan(decoder, prompt_tokens=5, num_threads=2).as_json()
    for different in ("memory_available",):
        assert report.pop(different) > 0
        expected.pop(different)
    assert report == expected
    assert report["ceilings"].keys() == set(CEILINGS)
    assert report["weights"]["int8"]["nbytes"] == qkv.load(decoder, dtype="int8").nbytes


def test_figures_for_people(decoder: Path) -> None:
    shown = run(decoder).stdout
    for part in (
        "llama, ",
        "float32",
        "int4",
        "all",
        "prompt, tokens/s",
        "new tokens/s",
        "keys and values",
        "20.0 GB/s",
    ):
        assert part in shown
    head, *lines = shown.splitlines()
    assert f"{qkv.plan(decoder).parameters:,} parameters" in head
    assert len([line for line in lines if line.startswith("int8")]) == 2


def test_without_measuring(decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Machine, "steady_ceiling")
    shown = run(decoder, "--no-measure").stdout
    assert "keys and values" in shown
    assert "tokens/s" not in shown
    assert json.loads(run(decoder, "--no-measure", "--json").stdout)["ceilings"] is None


def test_an_encoder(tiny_bert: Path) -> None:
    shown = run(tiny_bert).stdout
    assert "tokens/s" in shown
    assert "new tokens" not in shown
    assert "keys and values" not in shown


def test_what_does_not_fit(tmp_path: Path) -> None:
    """GPT-3 needs more than 98 GB; this machine is told to have 40, which is enough for none of the types."""
    sizes = {"vocab_size": 50257, "n_positions": 2048, "n_embd": 12288, "n_layer": 96, "n_head": 96}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", **sizes}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qkv.planning.planner.available_memory", lambda: 40 * 10**9)
        shown = run(tmp_path).stdout
        patch.setattr("qkv.planning.planner.available_memory", lambda: 103 * 10**9)
        more = run(tmp_path).stdout
    assert "gpt2, 174.6 billion parameters, context of 2,048 tokens; 40.0 GB of memory available" in shown
    assert shown.count("none") == 4
    assert "tokens/s" not in shown
    assert more.count("none") == 3
    assert "tokens/s" in more
    line = next(line for line in more.splitlines() if line.startswith("int4"))
    assert 64 <= int(line.split()[3]) < 2048


def test_the_name_shakespeare(stand_in: Path) -> None:
    assert json.loads(run("shakespeare", "--no-measure", "--json").stdout)["file"] == str(stand_in / "config.json")
