"""Config: values of the right kind get through, everything else is named."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkv.checkpoint import Config
from qkv.errors import CheckpointError, Error


@dataclass
class Bert(Config):
    ZERO_OK: ClassVar[frozenset[str]] = frozenset({"num_skipped_layers"})
    ALIASES: ClassVar[dict[str, str]] = {"n_embd": "hidden_size", "n_head": "num_attention_heads"}

    hidden_size: int
    num_attention_heads: int
    head_dim: int | None = None
    intermediate_size: Optional[int] = None  # noqa: UP045 (the old spelling must work, too)
    num_skipped_layers: int = 0
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    use_bias: bool = True
    pad_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    sliding_window: int | None = 4096
    layers: list[int] = field(default_factory=list)
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict | None = None  # type: ignore[type-arg]

    def check(self) -> None:
        size, heads = self.hidden_size, self.num_attention_heads
        self.require(size % heads == 0, f"hidden_size {size} is not divisible by num_attention_heads {heads}")


GOOD: dict[str, Any] = {"hidden_size": 384, "num_attention_heads": 12}


def parse(**changes: Any) -> Bert:
    return Bert.from_dict({**GOOD, **changes}, where="here/config.json")


def test_defaults_and_unknown_keys() -> None:
    config = parse(some_key="ignored", where="ignored", ZERO_OK=1)
    assert config == Bert(hidden_size=384, num_attention_heads=12)
    assert config.where == "here/config.json"
    assert config.layers == []


def test_other_spellings() -> None:
    expected = Bert(hidden_size=64, num_attention_heads=2)
    assert Bert.from_dict({"n_embd": 64, "n_head": 2}) == expected
    assert Bert.from_dict({"n_embd": 64, "hidden_size": None, "num_attention_heads": 2, "n_head": None}) == expected
    assert Bert.from_dict({"n_embd": 64, "hidden_size": 64, "num_attention_heads": 2}) == expected
    with pytest.raises(CheckpointError, match="n_embd 65 and hidden_size 384 differ"):
        parse(n_embd=65)
    with pytest.raises(CheckpointError, match="hidden_size is '64'; expected an integer"):
        Bert.from_dict({"n_embd": "64", "n_head": 2})


def test_values_get_through() -> None:
    changes = {
        "head_dim": 32,
        "intermediate_size": 2**24,
        "num_skipped_layers": 0,
        "layer_norm_eps": 1,
        "hidden_act": "relu",
        "use_bias": False,
        "pad_token_id": 0,
        "eos_token_id": [0, 2],
        "layers": [0, 3],
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "rope_parameters": {"rope_theta": 1e4},
    }
    config = parse(**changes)
    assert {name: getattr(config, name) for name in changes} == changes
    assert type(config.layer_norm_eps) is float


def test_null_means_the_default() -> None:
    config = parse(layer_norm_eps=None, use_bias=None, layers=None, hidden_act=None)
    assert config == Bert(hidden_size=384, num_attention_heads=12)


def test_null_is_a_value_where_the_type_allows_it() -> None:
    assert parse().sliding_window == 4096
    assert parse(sliding_window=None).sliding_window is None


BAD = [
    ("hidden_size", "384", "an integer from 1 to 16777216"),
    ("hidden_size", 384.0, "an integer from 1"),
    ("hidden_size", True, "an integer from 1"),
    ("hidden_size", None, "an integer from 1"),
    ("hidden_size", [384], "an integer from 1"),
    ("hidden_size", 0, "an integer from 1"),
    ("hidden_size", -384, "an integer from 1"),
    ("hidden_size", 2**24 + 1, "an integer from 1"),
    ("hidden_size", 10**4000, "an integer from 1"),
    ("head_dim", 0, "an integer from 1 to 16777216 or null"),
    ("num_skipped_layers", -1, "an integer from 0"),
    ("layer_norm_eps", "1e-12", "a finite number"),
    ("layer_norm_eps", math.nan, "a finite number"),
    ("layer_norm_eps", math.inf, "a finite number"),
    ("layer_norm_eps", 10**400, "a finite number"),
    ("layer_norm_eps", 1e39, "a finite number"),  # infinite in float32
    ("layer_norm_eps", -1e-12, "a finite number from 0"),
    ("layer_norm_eps", False, "a finite number"),
    ("hidden_act", 1, "a string"),
    ("use_bias", 1, "true or false"),
    ("use_bias", "true", "true or false"),
    ("pad_token_id", -1, "an integer from 0 to 16777216 or null"),
    ("eos_token_id", "2", "an integer from 0 to 16777216 or a list, each an integer from 0"),
    ("eos_token_id", [2, -1], "an integer from 0"),
    ("eos_token_id", [2, None], "an integer from 0"),
    ("eos_token_id", [[2]], "an integer from 0"),
    ("layers", 3, "a list, each an integer from 0"),
    ("layers", {"0": 3}, "a list, each an integer from 0"),
    ("rope_scaling", [1], "an object or null"),
    ("rope_parameters", "default", "an object or null"),
]


@pytest.mark.parametrize(("key", "value", "expected"), BAD)
def test_bad_values_are_named(key: str, value: Any, expected: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        parse(**{key: value})
    message = str(caught.value)
    assert message.startswith(f"here/config.json: {key} is ")
    assert f"expected {expected}" in message
    assert len(message) < 250
    shown = "null" if value is None else str(value) if value is True else None
    assert shown is None or shown in message


def test_missing_key() -> None:
    with pytest.raises(CheckpointError, match=r"here/config\.json: the key 'hidden_size' is missing; expected an int"):
        Bert.from_dict({"num_attention_heads": 12}, where="here/config.json")


def test_check_sees_the_file_name() -> None:
    with pytest.raises(
        CheckpointError,
        match=r"^here/config\.json: hidden_size 384 is not divisible by num_attention_heads 7$",
    ):
        parse(num_attention_heads=7)


def test_unknown_field_type_is_the_programmers_error() -> None:
    @dataclass
    class Odd(Config):
        size: complex = 0j

    with pytest.raises(TypeError, match="complex"):
        Odd.from_dict({"size": 1})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=8,
)


def outcome(key: str, value: Any) -> Bert | Error:
    try:
        return parse(**{key: value})
    except Error as error:
        return error


@given(key=st.sampled_from(sorted(Bert.__dataclass_fields__)), value=json_values)
def test_any_json_value_is_taken_or_refused(key: str, value: Any) -> None:
    config = outcome(key, value)
    if isinstance(config, Error):
        assert key in str(config)
    else:
        assert config.hidden_size % config.num_attention_heads == 0
        assert math.isfinite(config.layer_norm_eps)
