"""The options of `Model.generate` as callers write them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from qkv.errors import Error

if TYPE_CHECKING:
    from qkv.model import Model

LogitsProcessor = Callable[[NDArray[np.int64], NDArray[np.float32]], NDArray[np.float32]]


class GenerateArguments(TypedDict, total=False):
    """Described at `Options`; `temperature` to `eta_cutoff` at `SamplingParams`. None is what Hugging Face means by it:
    the option's default, whatever the checkpoint recommends."""

    max_new_tokens: int | None
    max_length: int | None
    min_new_tokens: int | None
    min_length: int | None
    max_time: float | None
    stop_strings: str | Sequence[str] | None
    eos_token_id: int | Sequence[int] | None
    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    seed: int | None
    repetition_penalty: float | None
    encoder_repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    no_repeat_ngram_size: int | None
    encoder_no_repeat_ngram_size: int | None
    bad_words_ids: Sequence[Sequence[int]] | None
    suppress_tokens: Sequence[int] | None
    begin_suppress_tokens: Sequence[int] | None
    forced_bos_token_id: int | None
    forced_eos_token_id: int | Sequence[int] | None
    logit_bias: Mapping[int, float] | None
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None
    num_beams: int | None
    num_beam_groups: int | None
    diversity_penalty: float | None
    length_penalty: float | None
    early_stopping: bool | Literal["never"] | None
    num_return_sequences: int | None
    return_alternatives: bool | None
    penalty_alpha: float | None
    prompt_lookup_num_tokens: int | None
    max_matching_ngram_size: int | None
    assistant_model: Model | None
    num_assistant_tokens: int | None
    logprobs: int | None
    truncate: Literal["left"] | None
    prefix: str | Sequence[int] | None
    state: Any
    keep_state: bool | None
    priority: int | None


NAMES: tuple[str, ...] = tuple(GenerateArguments.__annotations__)

# What other libraries call an option, where the spelling does not give it away.
_FOREIGN = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_output_tokens": "max_new_tokens",
    "num_predict": "max_new_tokens",
    "n_predict": "max_new_tokens",
    "max_gen_len": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "stop": "stop_strings",
    "stop_sequences": "stop_strings",
    "stop_token_ids": "eos_token_id",
    "end_id": "eos_token_id",
    "n": "num_return_sequences",
    "best_of": "num_beams",
    "beam_size": "num_beams",
    "beam_width": "num_beams",
    "num_hypotheses": "num_return_sequences",
    "sample": "do_sample",
    "sampling": "do_sample",
    "temp": "temperature",
    "repeat_penalty": "repetition_penalty",
    "random_seed": "seed",
    "timeout": "max_time",
    "top_logprobs": "logprobs",
    "num_logprobs": "logprobs",
    "draft_model": "assistant_model",
    "num_speculative_tokens": "num_assistant_tokens",
    "target_prefix": "prefix",
    "decoder_input_ids": "prefix",
    "truncation": "truncate",
    "sequence_bias": "logit_bias",
}
# Hugging Face's, for which there is nothing to say here.
_NEEDLESS = {
    "attention_mask": "nothing is padded here, so there is nothing to mask",
    "pad_token_id": "nothing is padded here",
    "use_cache": "keys and values are always cached",
    "return_dict_in_generate": "the result is always a Generation",
}


def check_names(given: Iterable[str]) -> None:
    """
    Raises:
        qkv.Error: an option is not known; the message suggests the one that may have been meant.
    """
    for name in given:
        if name in NAMES:
            continue
        if name in _NEEDLESS:
            raise Error(f"there is no option {name!r}: {_NEEDLESS[name]}; leave it out")
        near = [_FOREIGN[name]] if name in _FOREIGN else difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; those that there are: see qkv.generation.Options"
        raise Error(f"there is no option {name!r}{hint}")
