"""Exit codes and error lines, in this process and in real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qkv
from qkv.cli import main

COMMAND = [sys.executable, "-m", "qkv.cli"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bogus"], "bogus"),
        (["encode", "--bogus"], "--bogus"),
        (["generate"], "model"),
        (["generate", "MODEL"], "prompt"),
        (["generate", "/nowhere", "hi"], "'/nowhere' does not exist"),
        (["generate", "MODEL", "hi", "--max-new-tokens", "0"], "--max-new-tokens"),
        (["generate", "MODEL", "hi", "--temperature", "0"], "temperature is 0.0"),
        (["generate", "MODEL", "hi", "--top-k", "-3"], "top_k is -3"),
        (["generate", "MODEL", "hi", "--stop", ""], "stop_strings is"),
        (["generate", "MODEL", "hi", "--dtype", "int3"], "int3"),
        (["encode", "MODEL"], "no texts to embed"),
        (["encode", "MODEL", "--file", "/nowhere.txt"], "--file /nowhere.txt: No such file"),
        (["encode", "MODEL", "hi", "--out", "/nowhere/x.npy"], "there is no folder /nowhere"),
        (["encode", "MODEL", "hi", "--out", "/"], "directory"),
        (["encode", "MODEL", "hi", "--threads", "0"], "--threads"),
        (["demo", "--model", "/nowhere"], "'/nowhere' does not exist"),
        (["bench", "--only", "gemm,bogus"], "--only: there is no 'bogus'; choose from gemm, decode"),
        (["bench", "--dtype", "int3"], "--dtype: there is no 'int3'; choose from float32"),
        (["bench", "--out", "figures.txt"], "--out figures.txt: pictures are .png"),
        (["bench", "--out", "/nowhere/x.png"], "there is no folder /nowhere"),
        (["plan", "/nowhere"], "'/nowhere' does not exist; expected a checkpoint folder or a hub id"),
        (["plan", "MODEL", "--prompt-tokens", "100000"], "prompt_tokens must be an integer from 1 to"),
    ],
)
def test_errors_are_one_line(
    decoder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([str(decoder) if a == "MODEL" else a for a in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert error.endswith("\n")
    assert message in error


def test_text_that_is_not_utf8(decoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "latin1.txt"
    file.write_bytes(b"caf\xe9\n")
    assert main(["encode", str(decoder), "--file", str(file)]) == 2
    assert "is not UTF-8 text: invalid continuation byte at byte 3" in capsys.readouterr().err


def test_vectors_that_json_cannot_express(
    decoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(qkv.Model, "encode", lambda self, texts, **options: np.full((len(texts), 4), np.nan))
    assert main(["encode", str(decoder), "hi", "--json"]) == 2
    assert "NaN" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"qkv {qkv.__version__}\n"
    for arguments in [[], ["--help"], ["-h"]]:
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        assert all(command in shown for command in ["info", "demo", "encode", "generate", "bench"])


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_a_process_that_succeeds() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"qkv {qkv.__version__}\n", "")


def test_a_process_that_fails() -> None:
    done = run("generate", "/nowhere", "hi")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: '/nowhere' does not exist; expected a checkpoint folder or a hub id\n"


def test_a_process_that_is_interrupted(decoder: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [*COMMAND, "encode", str(decoder), "--file", str(fifo)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # who runs tests in the background ignores it
    )
    with process, fifo.open("w"):  # open returns once the process reads; from then on it waits for us
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (130, "", "")


def test_a_reader_that_goes_away(decoder: Path) -> None:
    command = [*COMMAND, "generate", str(decoder), "To be", "--max-new-tokens", "600"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_import_of_the_package_leaves_the_terminal_libraries_alone() -> None:
    code = "import sys, qkv; print([name for name in ('typer', 'rich', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
