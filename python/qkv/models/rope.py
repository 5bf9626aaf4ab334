"""The rotary positions that a config asks for. Each formula is computed in float32, in the order of transformers'
modeling_rope_utils, so that angles far into a text are the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkv.checkpoint import Config
from qkv.checkpoint.config import LIMIT
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Beyond, Rope

_LARGEST = float(np.finfo(np.float32).max)
# Far above the 576 of the widest heads; a table of frequencies is made for as many.
MOST_TURNED = 2**16


@dataclass(kw_only=True)
class RotaryPositions(Config):
    """The keys of config.json. transformers 5 writes `rope_parameters`, with theta in it; older versions `rope_theta`
    and, for stretched frequencies, `rope_scaling`."""

    max_position_embeddings: int = 2048
    original_max_position_embeddings: int | None = None
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    partial_rotary_factor: float = 1.0

    @property
    def context_length(self) -> int | None:
        """The longest sequence that the frequencies are made for. For most types max_position_embeddings says it, but
        for these it can be the length before stretching."""
        p = self.parameters()
        if p.kind == "dynamic":
            return int(p.factor * self.max_position_embeddings)
        if p.kind == "yarn":
            return max(self.max_position_embeddings, int(p.stretch * p.original_length))
        return self.max_position_embeddings

    def parameters(self) -> Parameters:
        key = "rope_scaling" if self.rope_scaling else "rope_parameters"
        return Parameters(self, key, self.rope_scaling or self.rope_parameters or {}, self.rope_theta)

    def rope(self, head_dim: int, *, partial: bool = False) -> Rope:
        """Of heads `head_dim` wide; `partial` if the model can leave some of their values alone.

        Raises:
            qkv.CheckpointError: a parameter is missing or out of range.
            qkv.UnsupportedArchitecture: there is no such type.
        """
        return self.parameters().rope(head_dim, partial=partial)


@dataclass(frozen=True)
class Parameters:
    """What `key` of the config holds, and defaults from elsewhere in the file."""

    config: RotaryPositions
    key: str
    values: Mapping[str, Any]
    default_theta: float

    @property
    def kind(self) -> str:
        return str(self.values.get("rope_type") or self.values.get("type") or "default")

    @property
    def theta(self) -> float:
        theta = self.number("rope_theta", self.default_theta)
        self._require("rope_theta", theta, theta > 1, "a number above 1")
        return theta

    @property
    def factor(self) -> float:
        """How many times as long texts become."""
        return self.number("factor", least=1.0)

    @property
    def stretch(self) -> float:
        """`factor`, or the ratio of lengths that some files leave it to."""
        if self.values.get("factor") is None:
            return self.config.max_position_embeddings / self.original_length
        return self.factor

    @property
    def original_length(self) -> int:
        """That the model was trained on before its frequencies were stretched."""
        name, config = "original_max_position_embeddings", self.config
        value = config.original_max_position_embeddings or self._value(name, config.max_position_embeddings)
        self._require(name, value, type(value) is int and 1 < value <= LIMIT, f"an integer from 2 to {LIMIT}")
        return int(value)

    def rope(self, head_dim: int, *, partial: bool = False) -> Rope:
        nested = [name for name, value in self.values.items() if isinstance(value, dict)]
        if nested:
            raise UnsupportedArchitecture(f"{self.config.where}: {self.key} for each of {', '.join(nested)}")
        if self.kind not in _KINDS:
            raise UnsupportedArchitecture(
                f"{self.config.where}: {self.key} has the type {self.kind!r:.60}; supported are: {', '.join(_KINDS)}"
            )
        share = self.number("partial_rotary_factor", self.config.partial_rotary_factor)
        self._require("partial_rotary_factor", share, 0 < share <= 1, "a number above 0 and up to 1")
        if share != 1 and not partial:
            raise UnsupportedArchitecture(f"{self.config.where}: partial_rotary_factor {share:g}; only 1 is supported")
        dim = int(head_dim * share)
        self.config.require(
            dim > 0 and dim % 2 == 0,
            f"rotary positions would turn {dim} of {head_dim} values of a head: it must be an even number",
        )
        self.config.require(dim <= MOST_TURNED, f"rotary positions of heads with {dim} values; at most {MOST_TURNED}")
        with np.errstate(all="ignore"):  # of values that are refused below
            rope = _KINDS[self.kind](self, dim)
        frequencies = (*rope.inverse_frequencies, *(rope.beyond.inverse_frequencies if rope.beyond else ()))
        self.config.require(
            all(map(math.isfinite, frequencies)),
            f"{self.key} of type {self.kind!r} makes frequencies that are not finite: its values are too small",
        )
        return rope

    def number(self, name: str, default: float | None = None, *, least: float | None = None) -> float:
        value = self._value(name, default)
        expected = "a number" if least is None else f"a number of at least {least:g}"
        self._require(name, value, _is_number(value) and (least is None or value >= least), expected)
        return float(value)

    def optional(self, name: str, *, least: float) -> float | None:
        return None if self.values.get(name) is None else self.number(name, least=least)

    def numbers(self, name: str, count: int) -> NDArray[np.float32]:
        """A list of positive ones."""
        value = self._value(name)
        good = isinstance(value, list) and len(value) == count
        good = good and all(_is_number(x) and x > 0 for x in value)
        self._require(name, value, good, f"a list of {count} positive numbers, half of the values that are turned")
        return np.array(value, np.float32)

    def flag(self, name: str, default: bool) -> bool:
        value = self._value(name, default)
        self._require(name, value, isinstance(value, bool), "true or false")
        return bool(value)

    def _value(self, name: str, default: Any = None) -> Any:
        found = self.values.get(name)
        return default if found is None else found

    def _require(self, name: str, value: object, condition: bool, expected: str) -> None:
        found = "missing" if value is None else repr(value)
        self.config.require(condition, f"{name} of {self.key} is {found:.60}; expected {expected}")


def _is_number(value: object) -> bool:
    """That is finite in float32, too."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _wavelengths(p: Parameters, dim: int) -> NDArray[np.float32]:
    """Positions for each radian: theta^(2i / dim)."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    return np.asarray(np.power(np.float32(p.theta), exponents), np.float32)


def _rope(frequencies: NDArray[np.floating[Any]], **options: Any) -> Rope:
    return Rope(tuple(frequencies.tolist()), **options)


def _default(p: Parameters, dim: int) -> Rope:
    return Rope.plain(p.theta, dim)


def _linear(p: Parameters, dim: int) -> Rope:
    """Positions are divided by a factor (Chen et al. 2023)."""
    return _rope(1 / _wavelengths(p, dim) / np.float32(p.factor))


def _dynamic(p: Parameters, dim: int) -> Rope:
    """Plain up to the trained length, then theta grows with the length of the text ("dynamic NTK")."""
    p.config.require(dim > 2, f"{p.key} of type 'dynamic' needs more than one pair of values in a head")
    plain = Rope.plain(p.theta, dim)
    beyond = Beyond(p.config.max_position_embeddings, plain.inverse_frequencies, ntk_factor=p.factor)
    return Rope(plain.inverse_frequencies, beyond=beyond)


def _llama3(p: Parameters, dim: int) -> Rope:
    """LLaMA 3.1: slow pairs are slowed down by a factor, fast ones stay, in between it is blended."""
    factor, length = p.factor, p.original_length
    low, high = p.number("low_freq_factor"), p.number("high_freq_factor")
    p.config.require(0 < low < high, f"{p.key}: low_freq_factor {low:g} must be above 0 and below high_freq_factor")
    frequencies = 1 / _wavelengths(p, dim)
    turns = length / (np.float32(2 * math.pi) / frequencies)  # over the original length
    blend = (turns - np.float32(low)) / np.float32(high - low)
    slowed, blended = frequencies / np.float32(factor), (1 - blend) * frequencies / np.float32(factor)
    blended += blend * frequencies
    return _rope(np.where(turns < low, slowed, np.where(turns > high, frequencies, blended)))


def _yarn(p: Parameters, dim: int) -> Rope:
    """YaRN (Peng et al. 2023): pairs that turn often over the original length stay, those that turn less than once are
    slowed down by the factor, with a ramp between; and attention is sharpened."""
    length, factor = p.original_length, p.stretch
    fast, slow = p.number("beta_fast", 32.0), p.number("beta_slow", 1.0)
    p.config.require(
        fast >= slow >= 1e-30, f"{p.key}: beta_slow {slow:g} must be above 0 and at most beta_fast {fast:g}"
    )

    def pair_that_turns(times: float) -> float:
        return dim * math.log(length / (times * 2 * math.pi)) / (2 * math.log(p.theta))

    first, last = pair_that_turns(fast), pair_that_turns(slow)
    if p.flag("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    width = last - first if last != first else 0.001
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - np.float32(first)) / np.float32(width), 0, 1)
    kept = 1 - ramp
    wavelengths = _wavelengths(p, dim)
    slowed = 1 / (np.float32(factor) * wavelengths)
    return _rope(slowed * (1 - kept) + 1 / wavelengths * kept, scale=_yarn_scale(p, factor))


def _yarn_scale(p: Parameters, factor: float) -> float:
    def sharpening(times: float = 1.0) -> float:
        return 1.0 if factor <= 1 else 0.1 * times * math.log(factor) + 1.0

    given, mscale, all_dims = (p.optional(name, least=0.0) for name in ("attention_factor", "mscale", "mscale_all_dim"))
    if given is not None:
        return given
    return sharpening(mscale) / sharpening(all_dims) if mscale and all_dims else sharpening()


def _longrope(p: Parameters, dim: int) -> Rope:
    """LongRoPE (Ding et al. 2024): a factor for each pair, others for texts beyond the original length."""
    length = p.original_length
    short, long = p.numbers("short_factor", dim // 2), p.numbers("long_factor", dim // 2)
    factor = p.stretch
    scale = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(length))
    scale = p.number("attention_factor", scale, least=0.0)
    wavelengths = _wavelengths(p, dim)
    beyond = Beyond(length, tuple((1 / (long * wavelengths)).tolist()), scale)
    return _rope(1 / (short * wavelengths), scale=scale, beyond=beyond)


_KINDS = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
