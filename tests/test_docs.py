"""What documents say about the code, held to it."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from qkv import models

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "python" / "qkv" / "models"


def test_the_table_of_architectures() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme[readme.index("| family |") :].partition("\n\n")[0]
    named = [name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[2])]
    assert sorted(named) == sorted({*models.SUPPORTED, *models.ALIASES})


def test_the_worked_example() -> None:
    page = (ROOT / "docs" / "adding-a-model.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    assert code.group(1) == (MODELS / "starcoder2.py").read_text()
    for case in re.findall(r"^   (\".*),$", page, re.MULTILINE):
        assert case in (ROOT / "tests" / "tiny" / "llama.py").read_text()


@pytest.mark.parametrize("model_type", models.SUPPORTED)
def test_model_files_are_short(model_type: str) -> None:
    module = models.architecture(model_type, "config.json")
    assert module is import_module(f"qkv.models.{model_type.replace('-', '_')}")
    lines = (MODELS / f"{module.__name__.rpartition('.')[2]}.py").read_text().splitlines()
    assert len(lines) < 120
    assert lines[0].startswith('"""')  # says what it is, and whose
