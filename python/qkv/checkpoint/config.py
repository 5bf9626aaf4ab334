"""Typed configurations: each model file declares the keys of config.json that it reads."""

from __future__ import annotations

import math
import reprlib
import types
from collections.abc import Mapping, Set
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from qkv.errors import CheckpointError

C = TypeVar("C", bound="Config")

# Far above any real vocabulary, context or width (2**24 is 16.7 million), and a product of two fits an int64.
LIMIT = 2**24

_BAD: Any = object()

_NAMES = {
    float: "a finite number",
    bool: "true or false",
    str: "a string",
    dict: "an object",
    type(None): "null",
}


@dataclass
class Config:
    """Base of the configurations. A subclass is a dataclass whose fields are keys of the JSON file.

    Fields may be int, float, bool, str, dict (nested, unchecked), list[...] of these, and unions of them. A
    field with a default is optional, and JSON null means the default. Integers must be 1 … 2**24, or from 0
    when they are listed in `ZERO_OK`, named ``*_token_id``, or in a list.

    Attributes:
        where: the file that the values come from, for error messages.
    """

    ZERO_OK: ClassVar[Set[str]] = frozenset()

    where: str = field(default="config.json", kw_only=True, repr=False, compare=False)

    @classmethod
    def from_dict(cls: type[C], raw: Mapping[str, Any], where: str = "config.json") -> C:
        """Take the declared keys from a parsed JSON object; unknown keys are ignored.

        Raises:
            CheckpointError: a key is missing, or its value has the wrong type, is not finite or out of range,
                or :meth:`check` refuses the whole. The message names the file and the key.
        """
        hints = get_type_hints(cls)
        declared = [f for f in fields(cls) if f.name != "where"]
        values = {f.name: _value(raw, f, hints[f.name], cls.ZERO_OK, where) for f in declared}
        config = cls(where=where, **{name: value for name, value in values.items() if value is not MISSING})
        config.check()
        return config

    def check(self) -> None:
        """Check how values relate; called by :meth:`from_dict`. Subclasses override it, with `require`."""

    def require(self, condition: bool, message: str) -> None:
        """Raise CheckpointError with `message` and the file's name unless `condition` holds."""
        if not condition:
            raise CheckpointError(f"{self.where}: {message}")

    def require_divisible(self, name: str, by: str) -> None:
        """Raise CheckpointError unless field `name` is a multiple of field `by`."""
        value, divisor = getattr(self, name), getattr(self, by)
        self.require(value % divisor == 0, f"{name} {value} is not divisible by {by} {divisor}")


def _value(raw: Mapping[str, Any], f: Field[Any], hint: Any, zero_ok: Set[str], where: str) -> Any:
    """The checked value of field `f`, or MISSING where its default applies."""
    optional = f.default is not MISSING or f.default_factory is not MISSING
    if optional and raw.get(f.name) is None:
        return MISSING
    least = 0 if f.name in zero_ok or f.name.endswith("_token_id") else 1
    if f.name not in raw:
        raise CheckpointError(f"{where}: the key {f.name!r} is missing; expected {_describe(hint, least)}")
    value = _parse(raw[f.name], hint, least)
    if value is _BAD:
        found = "null" if raw[f.name] is None else reprlib.repr(raw[f.name])
        raise CheckpointError(f"{where}: {f.name} is {found}; expected {_describe(hint, least)}")
    return value


def _parse(value: Any, hint: Any, least: int) -> Any:
    """`value` as the type `hint` asks, or _BAD."""
    origin = get_origin(hint) or hint
    if origin is Any:
        return value
    if origin in (Union, types.UnionType):
        return next((v for arm in get_args(hint) if (v := _parse(value, arm, least)) is not _BAD), _BAD)
    if origin is list:
        items = [_parse(v, get_args(hint)[0], 0) for v in value] if isinstance(value, list) else [_BAD]
        return items if all(item is not _BAD for item in items) else _BAD
    if origin is int:  # bool is an int for Python
        return value if type(value) is int and least <= value <= LIMIT else _BAD
    if origin is float:
        return _finite(value) if type(value) in (int, float) else _BAD
    if origin in _NAMES:
        return value if isinstance(value, origin) else _BAD
    raise TypeError(f"a Config field cannot have the type {hint}")


def _finite(value: int | float) -> Any:
    try:
        return float(value) if math.isfinite(value) else _BAD
    except OverflowError:  # an integer beyond the range of float
        return _BAD


def _describe(hint: Any, least: int) -> str:
    origin = get_origin(hint) or hint
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(arm, least) for arm in get_args(hint))
    if origin is list:
        return f"a list, each {_describe(get_args(hint)[0], 0)}"
    if origin is int:
        return f"an integer from {least} to {LIMIT}"
    return _NAMES.get(origin, "a value")
