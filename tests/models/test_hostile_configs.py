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


ROTARY = {"rope_parameters": {"rope_type": "bogus"}}
# Of each family: a case, its keys for the number of heads and for the activation, and other contradictions.
FAMILIES: dict[str, tuple[str, str, dict[str, dict[str, Any]]]] = {
    "albert": ("num_attention_heads", "hidden_act", {}),
    "bart": ("decoder_attention_heads", "activation_function", {}),
    "bert": ("num_attention_heads", "hidden_act", {}),
    "bloom": ("n_head", "", {}),
    "camembert-tokens": ("num_attention_heads", "hidden_act", {}),
    "distilbert": ("n_heads", "activation", {}),
    "falcon": ("num_attention_heads", "activation", {"bogus": ROTARY}),
    "falcon-new": ("num_attention_heads", "activation", {"num_kv_heads 2": {"num_kv_heads": 2}}),
    "gemma2": ("num_attention_heads", "hidden_activation", {"bogus": ROTARY}),
    "gemma3_text": (
        "num_attention_heads", "hidden_activation",
        {"bogus": {"rope_parameters": {"sliding_attention": {"rope_type": "bogus"}}}},
    ),
    "gpt2": ("n_head", "activation_function", {}),
    "gpt_neo": ("num_heads", "activation_function", {}),
    "gpt_neox": ("num_attention_heads", "hidden_act", {"bogus": ROTARY}),
    "gptj": ("n_head", "activation_function", {}),
    "llama": ("num_attention_heads", "hidden_act", {"bogus": ROTARY}),
    "marian": ("encoder_attention_heads", "activation_function", {}),
    "mbart": ("encoder_attention_heads", "activation_function", {}),
    "mistral": ("num_attention_heads", "hidden_act", {"bogus": ROTARY}),
    "mixtral": ("num_attention_heads", "hidden_act", {"bogus": ROTARY}),
    "phi3": ("num_attention_heads", "hidden_act", {"bogus": ROTARY}),
    "qwen2": ("num_attention_heads", "hidden_act", {"bogus": ROTARY}),
    "qwen3": ("num_attention_heads", "hidden_act", {"bogus": ROTARY}),
    "roberta": ("num_attention_heads", "hidden_act", {}),
    "starcoder2": ("num_attention_heads", "hidden_act", {"bogus": ROTARY}),
    "t5": ("", "feed_forward_proj", {}),
    "xlm-roberta-question": ("num_attention_heads", "hidden_act", {}),
}  # fmt: skip


@pytest.mark.parametrize("case", FAMILIES)
def test_contradictions_are_refused_by_name_without_weights(case: str, tmp_path: Path) -> None:
    import transformers
    from tests.tiny import CASES as ALL

    config = json.loads(getattr(transformers, ALL[case].config)(**ALL[case].options).to_json_string(use_diff=False))
    config["architectures"] = [ALL[case].model]
    for derived in ("dense_act_fn", "is_gated_act"):  # of T5's feed_forward_proj
        config.pop(derived, None)
    heads, function, contradictions = FAMILIES[case]
    if heads:
        divides = rf"is not divisible by {heads} 31|{heads} 31 is not divisible by num_k"
        contradictions = contradictions | {divides: {heads: 31, "head_dim": None}}
    if config.get("num_key_value_heads"):
        contradictions = contradictions | {"num_key_value_heads 31": {"num_key_value_heads": 31}}
    if function:
        contradictions = contradictions | {"'mish' is not supported": {function: "mish"}}
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    plan(file)
    for message, changes in contradictions.items():
        file.write_text(json.dumps(config | changes))
        with pytest.raises(qkv.Error, match=f"config.json: .*({message})"):
            plan(file)
        with pytest.raises(qkv.CheckpointError, match="no weights"):
            qkv.load(tmp_path)
