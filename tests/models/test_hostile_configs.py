"""Whatever config.json says: the model loads and runs, or qkv.Error says what is wrong; and `plan` the same."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import qkv

CASES = ("bert-sequences", "gpt2", "llama-yarn-options", "falcon", "t5", "marian", "mixtral")
IDS = [[3, 5, 7, 4], [4, 2]]
# Values that no key means, or that would take gigabytes; 2**24 is the largest integer that a key may have.
STRANGE = (
    None, True, False, "x", -1, 0, 1, 2, 3, 7, 2**15, 2**20, 2**24, 10**9, 2**40, 10**400, 0.5, 1e-300, 1e38, 1e300,
    float("nan"), float("inf"), [], [0], ["x"], [[]], {}, {"x": {}}, "removed", "doubled", "one more", "another's",
)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:  # type: ignore[no-untyped-def]
    """Copies of the checkpoints, whose configs may be written to."""
    return {
        case: Path(shutil.copytree(tiny(case), tmp_path_factory.mktemp("hostile") / case, dirs_exist_ok=True))
        for case in CASES
    }


def run(folder: Path) -> None:
    """Whatever numbers come out."""
    model = qkv.load(folder, num_threads=1)
    arguments = {"decoder_ids": IDS} if model.encoder else {}
    model.hidden_states(IDS, **arguments)
    if "logits" in model.program.outputs:
        model.logits(IDS, **arguments)


def plan(folder: Path) -> None:
    qkv.plan(folder, measure=False)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of all values of a configuration, nested ones too."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, part in inside for found in places(part, (*path, key)))]


def change(config: dict[str, Any], path: tuple[Any, ...], to: Any, other: tuple[Any, ...]) -> None:
    """Put `to` at a place of the configuration, or what it says about the value that is there."""
    owner = config
    for key in path[:-1]:
        owner = owner[key]
    found, number = owner[path[-1]], isinstance(owner[path[-1]], int | float)
    if to == "removed":
        del owner[path[-1]]
    elif to == "another's":
        value: Any = config
        for key in other:
            value = value[key]
        owner[path[-1]] = copy.deepcopy(value)
    elif to in ("doubled", "one more"):
        owner[path[-1]] = (found * 2 if to == "doubled" else found + 1) if number else [found]
    else:
        owner[path[-1]] = copy.deepcopy(to)


@pytest.mark.parametrize("case", CASES)
@settings(
    max_examples=60, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.data())
def test_runs_or_says_what_is_wrong(case: str, data: st.DataObject, folders: dict[str, Path], tiny) -> None:  # type: ignore[no-untyped-def]
    config = json.loads((tiny(case) / "config.json").read_text())
    for _ in range(data.draw(st.integers(1, 2), label="changes")):
        some = st.sampled_from(places(config)[1:])
        change(config, data.draw(some), data.draw(st.sampled_from(STRANGE)), data.draw(some))
    (folders[case] / "config.json").write_text(json.dumps(config))
    for open_it in (run, plan):
        try:
            open_it(folders[case])
        except qkv.Error as error:
            assert str(error)  # noqa: PT017 (it may also be right)
