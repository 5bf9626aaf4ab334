"""The generation loop: all prompts as one batch, one program run per step."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from qkv.errors import Error
from qkv.generation.cache import SequencePages, positions_for
from qkv.generation.prompts import Prompt, decoder_start, encode_prompts, is_single
from qkv.generation.result import Generation
from qkv.generation.rules import TokenRules
from qkv.generation.sampling import Sampler, SamplingParams
from qkv.generation.sequence import RunningSequence
from qkv.generation.streamer import Streamer, listening
from qkv.generation.text import TextStream
from qkv.source import Source

if TYPE_CHECKING:
    from qkv import _ext
    from qkv.model import Model

# Prompt tokens in one run. It bounds the memory of activations; results do not depend on it.
PREFILL_TOKENS = 512


def generate(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    *,
    max_new_tokens: int = 128,
    do_sample: bool = False,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    typical_p: float | None = None,
    epsilon_cutoff: float | None = None,
    eta_cutoff: float | None = None,
    seed: int | None = None,
    stop_strings: str | Sequence[str] | None = None,
    streamer: Streamer | None = None,
    stream: bool = False,
) -> Generation | list[Generation] | Iterator[str]:
    """Continue a prompt, or many as one batch. A prompt's text does not depend on the others in the batch.

    A model with an encoder and a decoder reads the prompt with the encoder; the text is what the decoder makes of it.

    The text ends at an end-of-sequence token of the checkpoint, before a stop string, after `max_new_tokens`,
    or where prompt and new tokens together fill the decoder's context. Tokens that the checkpoint wants forced (at the
    first or the last place) or never chosen are. Without `do_sample` decoding is greedy,
    whatever the checkpoint's generation_config.json says; with it, what is not given is taken from there.

    Args:
        model: a decoder, with or without an encoder.
        prompts: a text, a list of texts, one list of token ids or a list of such lists. A prompt without any
            tokens starts from the model's beginning-of-sequence token.
        max_new_tokens: at most so many new tokens for each prompt, >= 1.
        do_sample: draw tokens at random instead of taking the most likely one each time.
        temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff: see `SamplingParams`; top_k 0 switches
            off what the checkpoint recommends.
        seed: makes sampling repeatable; prompt number i of a list draws its own numbers, made from (seed, i).
        stop_strings: the text ends before the first of these, wherever the borders of tokens are. (The stop
            string is not part of the text; with Hugging Face it is.)
        streamer: for a single prompt, a function called with each piece of new text, or an object with `put`
            and `end` as in Hugging Face: it gets the token ids that the decoder starts from (the prompt's, without an
            encoder), then each new one, as int64 `[n]`.
        stream: for a single prompt, return an iterator over pieces of text instead. Pieces end between
            characters and never hold a part of a stop string; joined they are the text. The work happens as
            the iterator is read, and closing or dropping it ends the work.

    Returns:
        a `Generation` for one prompt, a list of them for a list, an iterator of str with `stream`.

    Raises:
        qkv.Error: an argument is not what it should be, a prompt does not fit the model, the model is not a
            decoder, or its logits are not finite.
    """
    if (streamer is not None or stream) and not is_single(prompts):
        raise Error("streaming takes a single prompt, not a list; expected a text or one list of token ids")
    if streamer is not None and stream:
        raise Error("streamer and stream=True exclude each other; expected one of them")
    if model.tokenizer is None and (stream or stop_strings):
        raise Error("stream and stop_strings are about text, but the checkpoint has no tokenizer")
    given = {
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "typical_p": typical_p,
        "epsilon_cutoff": epsilon_cutoff, "eta_cutoff": eta_cutoff,
    }  # fmt: skip
    params = SamplingParams.choose(do_sample, given, model.generation_config)
    sequences = _prepare(model, prompts, max_new_tokens, params, seed, stop_strings)
    if stream:
        return _pieces(model, sequences[0])
    first = sequences[0].ids if sequences else []
    with listening(streamer, first) as listener, closing(_run(model, sequences)) as steps:
        for sequence in steps:
            listener(sequence.ids[-1], sequence.piece)
    results = [sequence.result() for sequence in sequences]
    return results[0] if is_single(prompts) else results


def _prepare(
    model: Model,
    prompts: Prompt | Sequence[Prompt],
    max_new_tokens: int,
    params: SamplingParams | None,
    seed: int | None,
    stop_strings: str | Sequence[str] | None,
) -> list[RunningSequence]:
    """Check what concerns each sequence, and set all of them up."""
    if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool) or max_new_tokens < 1:
        raise Error(f"max_new_tokens is {max_new_tokens!r}; expected an integer >= 1")
    stops = [stop_strings] if isinstance(stop_strings, str) else stop_strings or []
    if not isinstance(stops, Sequence) or not all(isinstance(stop, str) and stop for stop in stops):
        raise Error(f"stop_strings is {stop_strings!r:.60}; expected texts of at least one character")
    rules = TokenRules.of(model)
    sequences = []
    for index, prompt in enumerate(encode_prompts(model, prompts)):
        start, source = ([decoder_start(model)], prompt) if model.encoder else (prompt, [])
        text = TextStream(model.tokenizer, [] if source else prompt, stops) if model.tokenizer else None
        room = max_new_tokens if model.context_length is None else model.context_length - len(start)
        limit = min(max_new_tokens, room)
        sequences.append(RunningSequence(start, limit, rules, Sampler(params, seed, index), text, source))
    return sequences


def _pieces(model: Model, sequence: RunningSequence) -> Iterator[str]:
    with closing(_run(model, [sequence])) as steps:
        for _ in steps:
            if sequence.piece:
                yield sequence.piece


def _run(model: Model, sequences: Sequence[RunningSequence]) -> Generator[RunningSequence, None, None]:
    """Run until all sequences are finished; yields a sequence each time it has a new token.

    Ending it early, by an exception or by closing it, gives all pages of the cache back.
    """
    active = list(sequences)
    if not active:
        return
    cache = model.new_cache(positions_for(s.most_positions for s in active))
    if "logits" not in model.program.outputs or model.program.rows("logits") != "logits":
        raise Error("this model has no head that predicts the next token: there is nothing to generate")
    pages = {s: SequencePages(cache) for s in active}
    sources = _read_sources(model, active)

    def release(sequence: RunningSequence) -> None:
        pages[sequence].release()
        if sources:
            sources[sequence].release()

    try:
        while active:
            plan = _plan(active)
            decoding = {s for s in active if s.new_tokens}
            started = time.perf_counter()
            advanced = _step(model, cache, pages, sources, plan)
            seconds = time.perf_counter() - started
            for sequence in active:
                if sequence in decoding:
                    sequence.decode_seconds += seconds
                else:
                    sequence.prefill_seconds += seconds
            yield from advanced
            for sequence in advanced:
                if sequence.finish_reason:
                    release(sequence)
            active = [s for s in active if not s.finish_reason]
    finally:
        for sequence in sequences:
            release(sequence)


def _read_sources(model: Model, sequences: Sequence[RunningSequence]) -> dict[RunningSequence, Source]:
    """What the encoder finds in each prompt; nothing where there is no encoder."""
    if not model.encoder:
        return {}
    started = time.perf_counter()
    source = model.read_source([np.array(s.source, np.int32) for s in sequences])
    seconds = time.perf_counter() - started
    for sequence in sequences:
        sequence.prefill_seconds += seconds
    return {s: source.part([i]) for i, s in enumerate(sequences)}


def _plan(active: list[RunningSequence]) -> list[tuple[RunningSequence, int]]:
    """The next run: which sequences take part, with how many tokens. Prompts come first."""
    waiting = [s for s in active if not s.new_tokens]
    if not waiting:
        return [(s, 1) for s in active]
    plan = []
    room = PREFILL_TOKENS
    for sequence in waiting:
        if room == 0:
            break
        count = min(sequence.pending, room)
        plan.append((sequence, count))
        room -= count
    return plan


def _step(
    model: Model,
    cache: _ext.KVCache,
    pages: Mapping[RunningSequence, SequencePages],
    sources: Mapping[RunningSequence, Source],
    plan: Sequence[tuple[RunningSequence, int]],
) -> list[RunningSequence]:
    """One run of the program; returns the sequences that got a new token."""
    for sequence, count in plan:
        pages[sequence].grow(sequence.past + count)
    logits = model.run(
        "logits",
        [np.array(s.ids[s.past : s.past + count], np.int32) for s, count in plan],
        wanted="last",  # of a prompt cut in two as well: a row of logits costs little beside the chunk
        past=[s.past for s, _ in plan],
        planned=[s.most_tokens for s, _ in plan],
        cache=cache,
        pages=[pages[s].ids for s, _ in plan],
        source=Source.joined([sources[s] for s, _ in plan]) if sources else None,
    )
    advanced = []
    for (sequence, count), row in zip(plan, logits, strict=True):
        sequence.past += count
        if sequence.pending == 0:
            sequence.accept(row)
            advanced.append(sequence)
    return advanced
