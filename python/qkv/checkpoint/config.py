"""Typed configurations: each model file declares the keys of config.json that it reads."""

from __future__ import annotations

import math
import reprlib
import types
from collections.abc import Mapping, Set
from dataclasses import MISSING, Field, dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from qkv.errors import CheckpointError

C = TypeVar("C", bound="Config")

# Far above any real vocabulary, context or width (2**24 is 16.7 million), and a product of two fits an int64.
LIMIT = 2**24
# Beyond it a float is infinite once it is rounded to float32, which is what models compute in.
_LARGEST = 3.4028234663852886e38

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
    field with a default is optional, and JSON null means the default where the type does not allow None. Integers
    must be 1 … 2**24, or from 0 when they are listed in `ZERO_OK`, named ``*_token_id``, or in a list. Floats must be
    finite in float32, and not below 0 when they are named ``*_eps`` or ``*_epsilon``.

    Attributes:
        ALIASES: other spellings of a key, and the field that they mean.
        where: the file that the values come from, for error messages.
    """

    ZERO_OK: ClassVar[Set[str]] = frozenset()
    ALIASES: ClassVar[Mapping[str, str]] = MappingProxyType({})

    where: str = field(default="config.json", kw_only=True, repr=False, compare=False)

    @classmethod
    def from_dict(cls: type[C], raw: Mapping[str, Any], where: str = "config.json") -> C:
        """Take the declared keys from a parsed JSON object; unknown keys are ignored.

        Raises:
            CheckpointError: a key is missing, or its value has the wrong type, is not finite or out of range,
                or :meth:`check` refuses the whole. The message names the file and the key.
        """
        hints = get_type_hints(cls)
        raw = _renamed(raw, cls.ALIASES, where)
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


def _renamed(raw: Mapping[str, Any], aliases: Mapping[str, str], where: str) -> Mapping[str, Any]:
    """With the fields' own names for other spellings."""
    renamed = dict(raw)
    for alias, name in aliases.items():
        if (value := raw.get(alias)) is None:
            continue
        if renamed.get(name) not in (None, value):
            raise CheckpointError(
                f"{where}: {alias} {reprlib.repr(value)} and {name} {reprlib.repr(renamed[name])} differ"
            )
        renamed[name] = value
    return renamed


def _value(raw: Mapping[str, Any], f: Field[Any], hint: Any, zero_ok: Set[str], where: str) -> Any:
    """The checked value of field `f`, or MISSING where its default applies."""
    optional = f.default is not MISSING or f.default_factory is not MISSING
    if optional and raw.get(f.name) is None:
        null = f.name in raw and type(None) in get_args(hint)  # sliding_window: null is no window, absent is 4096
        return None if null else MISSING
    least = _least(f.name, hint, zero_ok)
    if f.name not in raw:
        raise CheckpointError(f"{where}: the key {f.name!r} is missing; expected {_describe(hint, least)}")
    value = _parse(raw[f.name], hint, least)
    if value is _BAD:
        found = "null" if raw[f.name] is None else reprlib.repr(raw[f.name])
        raise CheckpointError(f"{where}: {f.name} is {found}; expected {_describe(hint, least)}")
    return value


def _least(name: str, hint: Any, zero_ok: Set[str]) -> float:
    if float in (hint, *get_args(hint)):
        return 0 if name.endswith(("_eps", "_epsilon")) else -math.inf
    return 0 if name in zero_ok or name.endswith("_token_id") else 1


def _parse(value: Any, hint: Any, least: float) -> Any:
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
        good = type(value) in (int, float) and abs(value) <= _LARGEST and value >= least  # NaN is neither
        return float(value) if good else _BAD
    if origin in _NAMES:
        return value if isinstance(value, origin) else _BAD
    raise TypeError(f"a Config field cannot have the type {hint}")


def _describe(hint: Any, least: float) -> str:
    origin = get_origin(hint) or hint
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(arm, least) for arm in get_args(hint))
    if origin is list:
        return f"a list, each {_describe(get_args(hint)[0], 0)}"
    if origin is int:
        return f"an integer from {least} to {LIMIT}"
    if origin is float and least == 0:
        return "a finite number from 0"
    return _NAMES.get(origin, "a value")
