"""What info, encode and generate print, against what the package computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import qkv
from qkv.cli.app import app
from qkv.generation import Generation

TEXTS = ["A [first] text.", "", "and a third"]


def run(*arguments: object, stdin: str | None = None) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_info_shows_every_fact() -> None:
    found = json.loads(run("info", "--json").stdout)
    assert found.keys() == qkv.info().keys()
    assert found["isa"] == qkv.info()["isa"]
    shown = run("info").stdout
    assert all(key.replace("_", " ") in shown for key in found)
    assert found["isa"] in shown


def test_encode_as_json(minilm: Path) -> None:
    report = json.loads(run("encode", minilm, *TEXTS, "--json").stdout)
    expected = qkv.load(minilm).encode(TEXTS)
    assert np.array_equal(np.array(report["vectors"], np.float32), expected)
    assert report["texts"] == 3
    assert report["size"] == 384


def test_encode_to_a_file(minilm: Path, tmp_path: Path) -> None:
    lines, out = tmp_path / "texts.txt", tmp_path / "vectors"
    lines.write_text("\n".join(TEXTS), encoding="utf-8")
    said = run("encode", minilm, "--file", lines, "--out", out, "--batch-size", 2, "--threads", 1).stdout
    assert "3 vectors of 384 numbers" in said
    vectors = np.load(out)
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, qkv.load(minilm).encode(TEXTS))
    report = json.loads(run("encode", minilm, "--file", lines, "--out", out, "--json").stdout)
    assert report["out"] == str(out)
    assert "vectors" not in report


def test_encode_reads_stdin_after_the_arguments(minilm: Path) -> None:
    report = json.loads(run("encode", minilm, TEXTS[0], "--file", "-", "--json", stdin="x\ny\n").stdout)
    expected = qkv.load(minilm).encode([TEXTS[0], "x", "y"])
    assert np.array_equal(np.array(report["vectors"], np.float32), expected)


def test_encode_shows_the_beginning_to_people(minilm: Path) -> None:
    shown = run("encode", minilm, *TEXTS).stdout
    first = qkv.load(minilm).encode(TEXTS[0])
    assert TEXTS[0] in shown
    assert f"{first[0]:+.3f} {first[1]:+.3f}" in shown
    assert len(shown.splitlines()) == 4


def test_encode_normalize(decoder: Path) -> None:
    plain = json.loads(run("encode", decoder, "To be", "--json").stdout)["vectors"][0]
    scaled = json.loads(run("encode", decoder, "To be", "--json", "--normalize").stdout)["vectors"][0]
    assert np.linalg.norm(plain) != pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(scaled, plain / np.linalg.norm(plain), atol=1e-6)


def test_generate_is_greedy_and_prints_only_the_text(decoder: Path) -> None:
    made = qkv.load(decoder).generate("To be", max_new_tokens=20)
    result = run("generate", decoder, "To be", "--max-new-tokens", 20)
    assert result.stdout == f"{made}\n"
    assert result.stderr == ""
    assert run("generate", decoder, "-", "--max-new-tokens", 20, stdin="To be").stdout == f"{made}\n"


def test_generate_as_json_and_stats(decoder: Path) -> None:
    made = qkv.load(decoder).generate("To be", max_new_tokens=20)
    result = run("generate", decoder, "To be", "--max-new-tokens", 20, "--json", "--stats")
    report = json.loads(result.stdout)
    assert report["text"] == str(made)
    assert report["token_ids"] == made.token_ids
    assert report["prompt"] == "To be"
    assert report["finish_reason"] == "length"
    assert report["tokens_per_second"] == pytest.approx(19 / report["timings"]["decode"])
    assert "20 tokens at" in result.stderr


@pytest.mark.parametrize("options", [{"temperature": 0.7}, {"top_k": 9}, {"top_p": 0.8}, {}])
def test_generate_samples_when_an_option_asks_for_it(decoder: Path, options: dict[str, float]) -> None:
    made = qkv.load(decoder).generate("To be", max_new_tokens=20, do_sample=True, seed=5, **options)
    flags = [x for name, value in options.items() for x in (f"--{name.replace('_', '-')}", value)]
    assert run("generate", decoder, "To be", "--max-new-tokens", 20, "--seed", 5, *flags).stdout == f"{made}\n"
    assert str(made) != str(qkv.load(decoder).generate("To be", max_new_tokens=20))


def test_generate_stops(decoder: Path) -> None:
    text = str(qkv.load(decoder).generate("To be", max_new_tokens=30))
    stops = [text[9:11], "never there"]
    shown = run("generate", decoder, "To be", "--max-new-tokens", 30, "--stop", stops[0], "--stop", stops[1])
    assert shown.stdout == text[: text.index(stops[0])] + "\n"


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {}),
        (["--sample"], {"do_sample": True}),
        (["--min-p", 0.1], {"min_p": 0.1, "do_sample": True}),
        (["--greedy", "--max-time", 3], {"do_sample": False, "max_time": 3.0}),
        (["--min-new-tokens", 2, "--lookup", 4], {"min_new_tokens": 2, "prompt_lookup_num_tokens": 4}),
        (["--repetition-penalty", 1.2, "--no-repeat-ngram", 3], {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3}),
        (["--beams", 4, "--length-penalty", 0.5, "--json"], {"num_beams": 4, "length_penalty": 0.5}),
        (["--logprobs", 2, "--json"], {"logprobs": 2}),
    ],
)
def test_generate_passes_options_on(
    decoder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[object], options: dict[str, object]
) -> None:
    seen: list[dict[str, object]] = []

    def noting(model: qkv.Model, prompt: str, *, streamer: object, **options: object) -> Generation:
        seen.append(options | {"streams": streamer is not None})
        return Generation("", [], 1, "stop", 0.0, 0.0)

    monkeypatch.setattr(qkv.Model, "generate", noting)
    run("generate", decoder, "To be", *arguments)
    assert seen == [options | {"streams": "--json" not in arguments}]


def test_generate_shows_beams_at_the_end(decoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(model: qkv.Model, prompt: str, *, streamer: object, **options: object) -> Generation:
        assert streamer is None
        return Generation(", or not", [5], 1, "stop", 0.0, 0.0)

    monkeypatch.setattr(qkv.Model, "generate", one)
    assert run("generate", decoder, "To be", "--beams", 4).stdout == ", or not\n"


def test_the_name_shakespeare(stand_in: Path) -> None:
    shown = run("generate", "shakespeare", "To be", "--max-new-tokens", 5).stdout
    assert shown == run("generate", stand_in, "To be", "--max-new-tokens", 5).stdout
