"""From a row of logits to the next token: greedy, or sampled with temperature, top-k and top-p."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from qkv.errors import Error


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. The filters apply in the order of Hugging Face: temperature, top_k, top_p.

    Attributes:
        temperature: the logits are divided by it; > 0.
        top_k: keep the k most likely tokens, and those as likely as the last of them; >= 1, None keeps all.
        top_p: of these keep the smallest set of most likely tokens whose probabilities reach top_p, at least
            one (nucleus sampling, Holtzman et al., https://arxiv.org/abs/1904.09751); 0 < top_p <= 1.

    Raises:
        qkv.Error: a value is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not _is_number(self.temperature) or not 0 < self.temperature < math.inf:
            hint = "; for greedy decoding use do_sample=False" if self.temperature == 0 else ""
            raise Error(f"temperature is {self.temperature!r}; expected a number > 0{hint}")
        if self.top_k is not None and (not _is_integer(self.top_k) or self.top_k < 1):
            raise Error(f"top_k is {self.top_k!r}; expected an integer >= 1, or None to keep all tokens")
        if not _is_number(self.top_p) or not 0 < self.top_p <= 1:
            raise Error(f"top_p is {self.top_p!r}; expected a number > 0 and <= 1")

    @classmethod
    def choose(cls, do_sample: bool, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> SamplingParams | None:
        """The parameters of a call, or None for greedy decoding.

        Args:
            do_sample: whether to sample at all.
            given: the caller's temperature, top_k and top_p; None where the caller leaves the choice.
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


class Sampler:
    """Draws the tokens of one sequence.

    Prompt number `index` of a call draws from its own stream of random numbers, made from (seed, index), so
    that its text does not depend on what else is in the batch.
    """

    def __init__(self, params: SamplingParams | None, seed: int | None = None, index: int = 0) -> None:
        """`params` None is greedy; `seed` None draws differently each time.

        Raises:
            qkv.Error: the seed is not a non-negative integer.
        """
        if seed is not None and (not _is_integer(seed) or seed < 0):
            raise Error(f"seed is {seed!r}; expected an integer >= 0")
        self._params = params
        if params is not None:
            source = np.random.SeedSequence(seed, spawn_key=(index,))
            self._random = np.random.Generator(np.random.Philox(source))

    def __call__(self, logits: np.ndarray) -> int:
        """The next token, for float32 logits `[vocab]`; of equally likely best ones greedy takes the lowest.

        Raises:
            qkv.Error: the logits hold NaN or infinity, or are all minus infinity.
        """
        best = int(np.argmax(logits))  # the place of a NaN, where there is one
        if not np.isfinite(logits[best]):
            raise Error(f"the logits are not finite: token {best} has {logits[best]}; expected numbers")
        if self._params is None:
            return best
        ids, probs = candidates(logits, self._params)
        cumulative = np.cumsum(probs)
        # Rounding must not carry the draw up to the total, which would pick a token of probability 0.
        draw = min(self._random.random() * cumulative[-1], np.nextafter(cumulative[-1], 0.0))
        return int(ids[np.searchsorted(cumulative, draw, side="right")])


def candidates(logits: np.ndarray, params: SamplingParams) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that pass the filters, and their probabilities.

    Args:
        logits: float32 `[vocab]`, the largest of them finite.

    Returns:
        token ids, int64 `[n]`, and probabilities, float64 `[n]`, which sum to 1.
    """
    scores = logits.astype(np.float64) / params.temperature
    ids = np.arange(len(scores))
    if params.top_k is not None and params.top_k < len(scores):
        ids = _at_least_kth(scores, params.top_k)
    probs = np.exp(scores[ids] - scores[ids].max())
    probs /= probs.sum()
    if params.top_p < 1:
        kept = _nucleus(probs, params.top_p)
        ids, probs = ids[kept], probs[kept]
        probs /= probs.sum()
    return ids, probs


def _at_least_kth(scores: np.ndarray, k: int) -> np.ndarray:
    """Where the scores are at least the k-th largest, in order of position: ties with it stay."""
    return np.flatnonzero(scores >= np.partition(scores, -k)[-k])


def _nucleus(probs: np.ndarray, top_p: float) -> np.ndarray:
    """Positions of the most likely tokens that together reach top_p, most likely first.

    Sorts only as many as it needs: the nucleus of a large vocabulary is mostly small. Among equals the higher
    position comes first.
    """
    count = 256
    while True:
        top = np.arange(len(probs)) if count >= len(probs) else _at_least_kth(probs, count)
        order = top[np.argsort(probs[top], kind="stable")[::-1]]
        above = np.cumsum(probs[order]) - probs[order]  # mass of the tokens before each
        kept = np.count_nonzero(above < top_p)
        if kept < len(order) or len(order) == len(probs):
            return order[:kept]
        count *= 8


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
