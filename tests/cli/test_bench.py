"""`qkv bench`: its figures are there and make sense, and what goes wrong is said. How large they are is not tested."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import erf, softmax
from typer.testing import CliRunner

import qkv.bench
from qkv import _ext
from qkv.bench import DTYPES, Case, Machine, kernels, measure, models, plan, rows
from qkv.bench import measure as measure_one
from qkv.cli import main
from qkv.cli.app import app


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models of one layer, and little memory to read."""
    monkeypatch.setattr(models, "LAYERS", 1)
    monkeypatch.setattr("qkv.bench.timing.available_memory", lambda: 0)
    yield
    models._bert.cache_clear()
    models._gpt2.cache_clear()
    kernels.packed.cache_clear()


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(app, ["bench", "--quick", "--threads", "2", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result


def test_figures_for_programs() -> None:
    report = json.loads(run("--json", "--only", "norms,gemm", "--dtype", "float32").stdout)
    assert report["complete"] is True
    assert report["machine"]["threads"] == 2
    assert report["memory_read"] == 64 << 20
    assert {"float32", "bfloat16", "memory"} <= report["ceilings"].keys()
    assert all(rate > 0 for rate in report["ceilings"].values())
    results = report["results"]
    assert {r["group"] for r in results} == {"gemm", "norms"}
    for r in results:
        assert r["rate"] > 0
        assert r["share"] > 0
        assert r["rounds"] >= 3
        assert r["met"] == (r["share"] >= r["goal"])
        assert r["of"] == ("NumPy" if r["group"] == "norms" else "float32")


def test_figures_for_people() -> None:
    shown = run("--only", "decode,attention", "--dtype", "bfloat16").stdout
    for part in [qkv.info()["isa"], "64 MiB read", "ceiling", "memory", "linear, one row", "one token", "GB/s", "%"]:
        assert part in shown
    assert "interrupted" not in shown


@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_models(dtype: str) -> None:
    machine = Machine(1, quick=True)
    results = [measure(case, machine) for case in plan(machine, ["end-to-end"], [dtype])]
    assert len(results) == 3
    assert all(math.isfinite(r.rate) and r.rate > 0 and r.share > 0 for r in results)
    assert [r.case.of for r in results] == [kernels.arithmetic(dtype)] * 2 + ["memory"]


def test_a_full_run_has_more_of_the_same() -> None:
    """Every goal of the full plan is reachable from the quick one, but for sizes."""
    quick, full = (list(plan(Machine(1, quick=q))) for q in (True, False))
    assert {c.group for c in quick} == {c.group for c in full}
    assert {(c.group, c.dtype) for c in quick} == {(c.group, c.dtype) for c in full}
    names = [(c.group, c.dtype, c.name, c.shape) for c in full]
    assert len(set(names)) == len(names)
    assert {(c.group, c.dtype, c.name, c.shape) for c in quick if c.group != "decode"} <= set(names)


def test_operations_are_those_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QKV_PROFILE", "1")
    machine = Machine(1, quick=False)
    for case in plan(machine, ["end-to-end"], ["float32"]):
        if case.of == "memory":
            continue
        job = case.make()
        model = models._bert("float32", 1) if "BERT" in case.name else models._gpt2("float32", 1)

        def flops(program: _ext.Program = model.program) -> float:
            return sum(program.profile()[step][2] for step in ("linear", "attention"))

        def calls(program: _ext.Program = model.program) -> int:
            return program.profile()["attention"][0]

        before, calls_before = flops(), calls()
        job.seconds(0)
        assert calls() == calls_before + 1
        assert flops() - before == pytest.approx(job.cost, rel=1e-3)


@pytest.mark.parametrize("beside", list(rows.row_cases()), ids=lambda beside: beside.name)
def test_numpy_does_the_same_work(beside: rows.Beside) -> None:
    np.testing.assert_allclose(beside.numpy(), beside.qkv(), rtol=1e-4, atol=1e-5)


def test_the_numpy_side_is_right() -> None:
    x = rows.normal(3, 50)
    np.testing.assert_allclose(rows.np_softmax(x), softmax(x.astype(np.float64), axis=-1), rtol=1e-5)
    np.testing.assert_allclose(rows.np_gelu(x), x * 0.5 * (1 + erf(x / np.sqrt(2.0))), rtol=1e-4, atol=1e-6)


def test_interrupted_runs_show_what_they_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Case] = []

    def stop_at_the_third(case: Case, machine: Machine) -> Any:
        seen.append(case)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return measure_one(case, machine)

    monkeypatch.setattr(qkv.bench, "measure", stop_at_the_third)
    assert main(["bench", "--quick", "--only", "norms", "--json"]) == 130
    report = json.loads(capsys.readouterr().out)
    assert report["complete"] is False
    assert len(report["results"]) == 2
    seen.clear()
    assert main(["bench", "--quick", "--only", "norms"]) == 130
    shown = capsys.readouterr().out
    assert "interrupted" in shown
    assert "LayerNorm" in shown


def test_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "figures.png"
    run("--only", "norms,decode", "--out", out)
    assert out.read_bytes().startswith(b"\x89PNG")


def test_picture_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("qkv.cli.bench.find_spec", lambda name: None)
    assert main(["bench", "--quick", "--out", str(tmp_path / "x.png")]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


def test_ceilings_of_every_instruction_set(isa: str) -> None:
    stream = _ext.Stream(1)  # rounded up
    for threads in (1, 2):
        assert all(_ext.peak_rate(dtype, threads, 1e-4) > 0 for dtype in ("float32", "bfloat16"))
        assert stream.read_rate(threads, 1e-4) > 0
    x = rows.normal(3, 40)
    for dtype in DTYPES:
        weight = kernels.packed(dtype, 70, 40, True, 1)
        for prepared in (False, True):
            assert _ext.linear_seconds(x, weight, "gelu", rows.normal(3, 70), prepared, 2, 1e-4) > 0
        kernels.packed.cache_clear()


def test_bad_sizes() -> None:
    with pytest.raises(qkv.Error, match="Stream: 0 bytes"):
        _ext.Stream(0)
    with pytest.raises(qkv.Error, match="int3"):
        _ext.peak_rate("int3", 1, 0.001)
    weight = kernels.packed("float32", 16, 8, False, 1)
    with pytest.raises(qkv.Error, match=r"x must be \[rows, 8\]"):
        _ext.linear_seconds(rows.normal(3, 9), weight, "identity", None, False, 1, 0.001)
    with pytest.raises(qkv.Error, match="residual"):
        _ext.linear_seconds(rows.normal(3, 8), weight, "identity", rows.normal(3, 17), False, 1, 0.001)
