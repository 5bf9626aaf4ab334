"""From a row of logits to the next token: greedy, or sampled with the filters of Hugging Face's generation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.errors import Error

# What a filter may be, and the value that keeps every token.
_FRACTIONS = {"top_p": 1.0, "typical_p": 1.0, "min_p": 0.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. The filters apply in this order, each to what the one before it left, as in Hugging Face.

    Attributes:
        temperature: the logits are divided by it; > 0.
        top_k: keep the k most likely tokens, and those as likely as the last of them; >= 1, None keeps all.
        top_p: keep the smallest set of most likely tokens whose probabilities reach top_p (nucleus sampling, Holtzman
            et al. 2020); 0 < top_p <= 1.
        min_p: keep tokens at least min_p times as likely as the most likely one (Nguyen et al. 2024); 0 <= min_p < 1.
        typical_p: keep the tokens whose surprise is closest to the expected one, until their probabilities reach
            typical_p (Meister et al. 2022); 0 < typical_p <= 1.
        epsilon_cutoff, eta_cutoff: keep tokens at least so likely; eta less strictly where the distribution is flat
            (Hewitt et al. 2022); from 0, which keeps all, to below 1.

    Raises:
        qkv.Error: a value is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0

    def __post_init__(self) -> None:
        if not _is_number(self.temperature) or not 0 < self.temperature < math.inf:
            hint = "; for greedy decoding use do_sample=False" if self.temperature == 0 else ""
            raise Error(f"temperature is {self.temperature!r}; expected a number > 0{hint}")
        if self.top_k is not None and (not _is_integer(self.top_k) or self.top_k < 1):
            raise Error(f"top_k is {self.top_k!r}; expected an integer >= 1, or None to keep all tokens")
        for name, off in _FRACTIONS.items():
            value = getattr(self, name)
            if not _is_number(value) or not (0 < value <= 1 if off else 0 <= value < 1):
                expected = "> 0 and <= 1" if off else ">= 0 and < 1"
                raise Error(f"{name} is {value!r}; expected a number {expected}")

    def filters(self) -> _ext.SamplingFilters:
        return _ext.SamplingFilters(
            self.temperature,
            self.top_k or 0,
            self.top_p,
            self.min_p,
            self.typical_p,
            self.epsilon_cutoff,
            self.eta_cutoff,
        )

    @classmethod
    def choose(cls, do_sample: bool, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> SamplingParams | None:
        """The parameters of a call, or None for greedy decoding.

        Args:
            do_sample: whether to sample at all.
            given: the caller's options; None where the caller leaves the choice.
            defaults: the checkpoint's ``generation_config.json``, asked for what the caller left open.

        Raises:
            qkv.Error: a value is out of range, or given without do_sample.
        """
        chosen = _present(given)
        if not do_sample:
            if chosen:
                raise Error(f"{', '.join(chosen)} given, but do_sample is False; sampling needs do_sample=True")
            return None
        recommended = {name: value for name, value in _present(defaults).items() if name not in chosen}
        try:
            params = cls(**recommended)
        except Error as error:
            raise Error(f"generation_config.json: {error}") from error
        return replace(params, **chosen)


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    present = {f.name: values[f.name] for f in fields(SamplingParams) if values.get(f.name) is not None}
    if present.get("top_k") == 0:  # how Hugging Face writes "off"
        present["top_k"] = None
    return present


def choose_one(filters: _ext.SamplingFilters | None, logits: NDArray[np.float32], draw: float, where: str) -> int:
    """The next token, for logits `[vocab]`; without filters the likeliest, of equally likely ones the lowest.

    Args:
        draw: uniform in [0, 1).
        where: begins the message of an error.

    Raises:
        qkv.Error: the logits hold NaN or infinity, or are all minus infinity.
    """
    (token,) = _ext.choose([filters], logits[None], [draw])
    if token < 0:
        raise Error(f"{where}: {describe_bad_row(logits)}")
    return token


def describe_bad_row(logits: NDArray[np.float32]) -> str:
    """Why no token can be chosen from these logits `[vocab]`, for which `_ext.choose` returns -1."""
    bad = np.flatnonzero(~(logits < np.inf))
    if bad.size:
        return f"the logits are not finite: token {bad[0]} has {logits[bad[0]]}; expected numbers"
    return f"the logits are not finite: all {logits.size} are -inf, so that there is no token to choose"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
