"""The generation loop: all prompts as one batch, one program run per step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from qkv.errors import Error
from qkv.generation.cache import SequencePages, positions_for
from qkv.generation.prompts import Prompt, encode_prompts, eos_token_ids, is_single
from qkv.generation.result import Generation
from qkv.generation.sampling import Sampler, SamplingParams
from qkv.generation.sequence import RunningSequence
from qkv.generation.streamer import Streamer, attach
from qkv.generation.text import TextStream

if TYPE_CHECKING:
    from qkv import _ext
    from qkv.model import Model

# Prompt tokens in one run. It bounds the memory of activations; results do not depend on it.
PREFILL_TOKENS = 512


@overload
def generate(
    model: Model, prompts: Prompt | Sequence[Prompt], *, stream: Literal[True], **options: Any
) -> Iterator[str]: ...


@overload
def generate(
    model: Model, prompts: Prompt | Sequence[Prompt], *, stream: Literal[False] = ..., **options: Any
) -> Generation | list[Generation]: ...


def generate(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    *,
    max_new_tokens: int = 128,
    do_sample: bool = False,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_strings: str | Sequence[str] | None = None,
    streamer: Streamer | None = None,
    stream: bool = False,
) -> Generation | list[Generation] | Iterator[str]:
    """Continue a prompt, or many as one batch. A prompt's text does not depend on the others in the batch.

    The text ends at an end-of-sequence token of the checkpoint, before a stop string, after `max_new_tokens`,
    or where prompt and new tokens together fill the model's context. Without `do_sample` it is greedy, whatever
    the checkpoint's generation_config.json says; with it, what is not given here is taken from there.

    Args:
        model: a decoder.
        prompts: a text, a list of texts, one list of token ids or a list of such lists. A prompt without any
            tokens starts from the model's beginning-of-sequence token.
        max_new_tokens: at most so many new tokens for each prompt, >= 1.
        do_sample: draw tokens at random instead of taking the most likely one each time.
        temperature, top_k, top_p: see `SamplingParams`; top_k 0 switches off what the checkpoint recommends.
        seed: makes sampling repeatable; prompt number i of a list draws its own numbers, made from (seed, i).
        stop_strings: the text ends before the first of these, found wherever the tokens' borders are. (The text
            does not include the stop string; Hugging Face's does.)
        streamer: for a single prompt, a function called with each piece of new text, or an object with `put`
            and `end` as in Hugging Face: it gets the prompt's token ids, then each new one, as int64 `[n]`.
        stream: for a single prompt, return an iterator over pieces of text instead. Pieces end between
            characters and never hold a part of a stop string; joined they are the text. The work happens as
            the iterator is read, and closing or dropping it ends the work.

    Returns:
        a `Generation` for one prompt, a list of them for a list, an iterator of str with `stream`.

    Raises:
        qkv.Error: an argument is not what it should be, a prompt does not fit the model, the model is not a
            decoder, or its logits are not finite.
    """
    if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool) or max_new_tokens < 1:
        raise Error(f"max_new_tokens is {max_new_tokens!r}; expected an integer >= 1")
    if (streamer is not None or stream) and not is_single(prompts):
        raise Error("streaming takes a single prompt, not a list; expected a text or one list of token ids")
    if streamer is not None and stream:
        raise Error("streamer and stream=True exclude each other; expected one of them")
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    params = SamplingParams.choose(do_sample, given, model.generation_config)
    stops = _check_stop_strings(model, stop_strings)
    eos = eos_token_ids(model)
    sequences = []
    for index, prompt in enumerate(encode_prompts(model, prompts)):
        text = TextStream(model.tokenizer, prompt, stops) if model.tokenizer is not None else None
        limit = min(max_new_tokens, model.context_length - len(prompt))
        sequences.append(RunningSequence(prompt, limit, eos, Sampler(params, seed, index), text))
    if stream:
        if model.tokenizer is None:
            raise Error("stream=True yields text, but the checkpoint has no tokenizer.json; use a streamer")
        return _pieces(model, sequences)
    with attach(streamer, sequences), closing(_run(model, sequences)) as steps:
        for sequence in steps:
            sequence.announce()
    results = [sequence.result() for sequence in sequences]
    return results[0] if is_single(prompts) else results


def _pieces(model: Model, sequences: list[RunningSequence]) -> Iterator[str]:
    with closing(_run(model, sequences)) as steps:
        for sequence in steps:
            if sequence.piece:
                yield sequence.piece
