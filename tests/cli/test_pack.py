"""`qkv pack`, and what other commands make of its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qkv.cli import main


def test_pack_and_use(decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.qkv"
    assert main(["pack", str(decoder), "--dtype", "int8", "-o", str(file)]) == 0
    out, error = capsys.readouterr()
    assert out.startswith(f"llama as int8 in {file}: ")
    assert error == ""

    assert main(["generate", str(decoder), "To be", "--max-new-tokens", "8", "--dtype", "int8"]) == 0
    expected = capsys.readouterr().out
    assert main(["generate", str(file), "To be", "--max-new-tokens", "8"]) == 0
    assert capsys.readouterr().out == expected


def test_json_is_what_info_says(decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.qkv"
    assert main(["pack", str(decoder), "-o", str(file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report.pop("seconds") > 0
    assert report["bytes"] == file.stat().st_size
    assert (report["model_type"], report["dtype"]) == ("llama", "float32")
    assert main(["info", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == report
    assert main(["info", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "float32" in shown
    assert "panels of" in shown


def test_shakespeare(stand_in: Path, tmp_path: Path) -> None:
    assert main(["pack", "shakespeare", "-o", str(tmp_path / "model.qkv")]) == 0


def test_errors_are_one_line(decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model.qkv"
    file.write_text("precious")
    for arguments, message in [
        (["pack", str(decoder)], "--out"),
        (["pack", str(decoder), "-o", str(file)], "model.qkv exists; replace it with force (--force)"),
        (["pack", "/nowhere", "-o", str(tmp_path / "x")], "'/nowhere' does not exist"),
        (["pack", str(decoder), "-o", "/nowhere/x"], "there is no folder /nowhere"),
        (["pack", str(decoder), "-o", str(tmp_path / "x"), "--dtype", "int3"], "'int3' is not one of"),
        (["info", str(file)], "model.qkv is no packed model"),
        (["info", "/nowhere"], "/nowhere is not a regular file"),
        (["generate", str(file), "hi"], "model.qkv is no packed model"),
    ]:
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert message in error
    assert main(["pack", str(decoder), "-o", str(file), "--force"]) == 0
