"""What a plan says."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Speed:
    """Tokens per second: what the machine's ceilings allow at most, and about what is expected to arrive."""

    at_most: float
    expected: float


@dataclass(frozen=True)
class WeightPlan:
    """A model with weights of one type.

    Attributes:
        nbytes: bytes of all weights in memory, as `Model.nbytes`.
        kv_dtype: what keys and values are kept as by default.
        context_that_fits: tokens of one sequence (and of as long a source) for which the available memory is enough,
            beside the weights; 0 where it is not enough for these.
        prompt: speed of a prompt, or of a text that is embedded; None if the weights don't fit, or nothing was to be
            measured.
        new_tokens: speed of the tokens that are generated after it; None for an encoder, too.
    """

    nbytes: int
    kv_dtype: str
    context_that_fits: int
    prompt: Speed | None = None
    new_tokens: Speed | None = None


@dataclass(frozen=True)
class KVPlan:
    """Keys and values of one type.

    Attributes:
        token_nbytes: bytes for each token of a sequence.
        source_token_nbytes: for each token of the text that an encoder reads for a decoder; None for other models.
        sequence_nbytes: for a sequence that fills the context, and as long a source; None where positions have no end.
    """

    token_nbytes: int
    source_token_nbytes: int | None
    sequence_nbytes: int | None


@dataclass(frozen=True)
class Plan:
    """What a model takes on this machine, and how fast it can be.

    Attributes:
        file: the configuration.
        model_type: its architecture.
        parameters: values of all tensors that the model uses, shared ones counted once.
        context_length: tokens of a sequence at most; None where positions have no end.
        weights: for each type of weights.
        kv_cache: for each type of keys and values; None for an encoder, which caches none.
        memory_available: bytes that this process could use now.
        prompt_tokens: the length of the prompt that the speeds are of.
        threads: of a run.
        ceilings: operations per second of each type of arithmetic, and bytes per second read from "memory"; None if
            they were not to be measured, or no weights fit.
        in_cache: the smallest weights would fit the largest cache that the system reports: such can give new tokens
            faster than memory allows.
    """

    file: str
    model_type: str
    parameters: int
    context_length: int | None
    weights: dict[str, WeightPlan]
    kv_cache: dict[str, KVPlan] | None
    memory_available: int
    prompt_tokens: int
    threads: int
    ceilings: dict[str, float] | None = None
    in_cache: bool = False

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
