"""The options of one call, with every value decided."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from qkv.errors import Error
from qkv.generation.options import values
from qkv.generation.options.arguments import LogitsProcessor, check_names
from qkv.generation.options.checkpoint import RECOMMENDED, recommended
from qkv.generation.options.conflicts import Choice, check_streaming, settle
from qkv.generation.prompts import encode_text
from qkv.generation.sampling import SamplingParams

if TYPE_CHECKING:
    from qkv.model import Model

_DEFAULT_NEW_TOKENS = 128
_CANDIDATES = 50  # Hugging Face's default of top_k
_SAMPLING = tuple(f.name for f in fields(SamplingParams))


@dataclass(frozen=True)
class Options:
    """All that a caller may say about a generation. Names and meanings are those of Hugging Face's `generate`.

    What the caller does not give is taken from the checkpoint's generation_config.json (or from a config.json that
    says it, where that file is missing), and else is the default below. As there, do_sample and num_beams may come
    from the checkpoint, too. None given for an option is its default, whatever the checkpoint says; empty lists switch
    lists off.

    Attributes:
        max_new_tokens: at most so many new tokens, >= 1. By default max_length decides, or it is 128. The text also
            ends where the model's context does.
        max_length: at most so many tokens in the decoder, >= 1: prompt and new ones or, where an encoder reads the
            prompt, the start token, `prefix` and new ones. Not with max_new_tokens. (20 in a checkpoint does not count:
            Hugging Face wrote its own default to files.)
        min_new_tokens, min_length: the tokens in eos_token_id are not chosen before so many, counted likewise; >= 0.
        max_time: seconds after which no further token is begun, > 0; what there is by then is the result.
        stop_strings: texts, or one; the text ends before the first of them. (With Hugging Face behind it.)
        eos_token_id: tokens that end the text; an id or a list of ids.
        do_sample: draw tokens at random instead of taking the most likely one each time; with beams, draw these.
        sampling: how tokens are drawn, None without do_sample. A caller gives its fields as options of their own:
            temperature, top_k (0: all, which is also the default; with Hugging Face 50), top_p, min_p, typical_p,
            epsilon_cutoff, eta_cutoff.
        top_k: with penalty_alpha, among how many of the most likely tokens it chooses, >= 2; 50 unless given. Otherwise
            it is in `sampling`.
        seed: 0 to 2**64 - 1, makes sampling repeatable; another one each time unless given. Prompt number i of a list
            draws its own numbers, made from (seed, i).
        repetition_penalty: > 0; the logit of each token that the decoder has read, prompt included, is divided by it
            where positive and multiplied where negative (Keskar et al. 2019). 1 changes nothing.
        encoder_repetition_penalty: > 0; above 1 the prompt's tokens become more likely by it, below 1 less.
        presence_penalty, frequency_penalty: 0 to 2, as OpenAI's; taken from the logit of every token that was
            generated, the latter times how often. 0 changes nothing.
        no_repeat_ngram_size: no so many tokens in a row come twice; 0 allows it.
        encoder_no_repeat_ngram_size: none that are in the prompt, either.
        bad_words_ids: lists of token ids that do not come in a row. One of a single end token is left out.
        suppress_tokens, begin_suppress_tokens: tokens that never come, or not as the first new one.
        forced_bos_token_id: the token behind the first one, such as the language that a translation is to be in.
        forced_eos_token_id: the token at the last place, where the text did not end before; of a list the lowest.
        logit_bias: {token id: number} to add to logits; minus infinity bans a token.
        logits_processor: functions, or one, called for each new token with the ids that the decoder read, int64 [n],
            and the logits, float32 [vocab_size], after all of the above; they return the logits to choose from,
            float32 [vocab_size].
        num_beams: how many likely texts to follow at once; 1 is no beam search.
        num_beam_groups: how many groups beams are divided into, a divisor of num_beams; not with do_sample.
        diversity_penalty: >= 0, taken from the score of a token for each time that a group before chose it.
        length_penalty: beams are ranked by the sum of their tokens' log probabilities over length ** length_penalty:
            above 0 prefers longer texts, below 0 shorter ones.
        early_stopping: when a beam search ends: True, once there are num_beams finished texts; False, once a better one
            is unlikely; "never", once it is impossible.
        num_return_sequences: how many texts for each prompt: samples, the best of the beams, or alternatives.
        return_alternatives: the num_return_sequences most likely first tokens, each continued greedily.
        penalty_alpha: 0 to 1: contrastive search (Su et al. 2022): how much a token's likeness to what is there counts
            against it.
        prompt_lookup_num_tokens: guess up to so many tokens at once from where the last ones stand in the text before.
            Guesses change the speed and not the text.
        max_matching_ngram_size: for how many last tokens, at most, the text before is searched. (Hugging Face: 2.)
        assistant_model: a smaller `Model` with the same vocabulary that guesses tokens.
        num_assistant_tokens: how many at once.
        logprobs: 0 to 20; the result has the log probability of each new token, and of the so many most likely ones
            there, as the model gives them.
        truncate: what happens to a prompt that is too long: None is an error; with "left" its last tokens are kept, as
            many as leave room in the context for max_new_tokens (with max_length for up to 128), and at least one. An
            encoder's context needs no such room. Special tokens that the tokenizer puts at the ends of a text stay.
        prefix: how the decoder's text begins, behind an encoder: a text, or token ids. It is not part of the result.
        state: a conversation to carry on, from the result of a single prompt.
        keep_state: keep what is needed to carry on, in the result.
        priority: of requests that wait for room in an `Engine`, those of higher priority begin first.
    """

    max_new_tokens: int | None = _DEFAULT_NEW_TOKENS
    max_length: int | None = None
    min_new_tokens: int = 0
    min_length: int = 0
    max_time: float | None = None
    stop_strings: tuple[str, ...] = ()
    eos_token_id: tuple[int, ...] = ()
    do_sample: bool = False
    sampling: SamplingParams | None = None
    top_k: int | None = None
    seed: int = 0
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logits_processor: tuple[LogitsProcessor, ...] = ()
    num_beams: int = 1
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return_sequences: int = 1
    return_alternatives: bool = False
    penalty_alpha: float | None = None
    prompt_lookup_num_tokens: int | None = None
    max_matching_ngram_size: int = 3
    assistant_model: Model | None = None
    num_assistant_tokens: int = 5
    logprobs: int | None = None
    truncate: Literal["left"] | None = None
    prefix: tuple[int, ...] = ()
    state: Any = None
    keep_state: bool = False
    priority: int = 0

    @classmethod
    def choose(cls, model: Model, given: Mapping[str, Any], *, single: bool = True, streaming: bool = False) -> Options:
        """
        Args:
            given: the caller's options, as in `GenerateArguments`.
            single: whether there is one prompt and not a list.
            streaming: whether the text is to be shown while it is made.

        Raises:
            qkv.Error: an option is unknown, out of range, or does not go with another one.
            qkv.CheckpointError: what the checkpoint recommends is not what it should be.
        """
        check_names(given)
        read = {name: values.read(name, value) for name, value in given.items() if value is not None}
        for name, value in read.items():
            values.check_tokens(name, value, model.vocab_size)
        defaults = dict.fromkeys(_SAMPLING) | vars(cls()) | {"max_new_tokens": None}
        said = recommended(model, given, RECOMMENDED)
        if read.get("penalty_alpha", said.get("penalty_alpha")):
            said |= recommended(model, given, ["top_k"])
        choice = Choice(defaults, said, read)
        settle(choice)
        _check_prompts(choice, single, streaming)
        if streaming:
            check_streaming(choice)
        _check_model(choice, model)
        chosen = {f.name: choice[f.name] for f in fields(cls)} | {
            "seed": choice.given.get("seed", secrets.randbits(64)),
            "sampling": _sampling(choice, model, given),
            "top_k": min(choice["top_k"] or _CANDIDATES, model.vocab_size) if choice.is_set("penalty_alpha") else None,
            "bad_words_ids": tuple(
                w for w in choice["bad_words_ids"] if len(w) > 1 or w[0] not in choice["eos_token_id"]
            ),
            "forced_bos_token_id": min(choice["forced_bos_token_id"] or (), default=None),
            "forced_eos_token_id": min(choice["forced_eos_token_id"] or (), default=None),
            "prefix": _ids(choice["prefix"], model),
        }
        if chosen["max_new_tokens"] is chosen["max_length"] is None:
            chosen["max_new_tokens"] = _DEFAULT_NEW_TOKENS
        return cls(**chosen)

    @property
    def streamable(self) -> bool:
        """Whether there is one text for a prompt, which grows token by token."""
        return self.num_beams == 1 and self.num_return_sequences == 1 and self.penalty_alpha is None

    def longest_prompt(self, context_length: int | None, encoder: bool) -> int | None:
        """To how many tokens a prompt is cut, >= 1; None where it is not.

        Args:
            context_length: of the model; None where it has no bound.
            encoder: whether an encoder reads the prompt.
        """
        if self.truncate is None:
            return None
        if encoder:
            return context_length
        lengths = [length for length in (context_length, self.max_length) if length is not None]
        if not lengths:
            return None
        room = min(_DEFAULT_NEW_TOKENS, min(lengths) // 2) if self.max_new_tokens is None else self.max_new_tokens
        return max(1, min(lengths) - room)

    def limit(self, start_tokens: int, context_length: int | None) -> int:
        """The most new tokens for a prompt, >= 1.

        Args:
            start_tokens: that the decoder has before the first new one.
            context_length: of the model; None where it has no bound.

        Raises:
            qkv.Error: max_length or the context leaves no room for a new token.
        """
        most = self.max_new_tokens
        if most is None:
            assert self.max_length is not None
            most = self.max_length - start_tokens
            if most < 1:
                raise Error(
                    f"max_length is {self.max_length}, but the decoder starts from {start_tokens} tokens already; "
                    "expected more, or max_new_tokens instead"
                )
        if context_length is not None and start_tokens >= context_length:
            raise Error(f"the decoder starts from {start_tokens} tokens, and its context is {context_length} tokens")
        return most if context_length is None else min(most, context_length - start_tokens)


def _check_prompts(choice: Choice, single: bool, streaming: bool) -> None:
    if streaming and not single:
        raise Error("streaming takes a single prompt, not a list; expected a text or one list of token ids")
    if choice["state"] is not None and not single:
        raise Error(
            "state is one conversation, which a single prompt carries on; expected a text or one list of token ids"
        )


def _check_model(choice: Choice, model: Model) -> None:
    """What the model cannot do."""
    if choice["stop_strings"] and model.tokenizer is None:
        choice.refuse("stop_strings", "they are about text, but the checkpoint has no tokenizer")
    if choice["prefix"] and not model.encoder:
        raise Error(f"{choice.says('prefix')}; without an encoder it belongs to the prompt")
    if model.encoder and (choice["keep_state"] or choice["state"] is not None):
        raise Error("a state can't be kept of a text that depends on what an encoder read")
    if choice["state"] is not None and choice["state"].model is not model:
        raise Error("state is of another model; expected one that this model made or loaded")
    assistant = choice["assistant_model"]
    if assistant is None:
        return
    if model.encoder or assistant.encoder:
        raise Error("assistant_model guesses the text of a decoder alone; neither model may have an encoder beside it")
    if assistant.vocab_size != model.vocab_size:
        raise Error(
            f"assistant_model has a vocabulary of {assistant.vocab_size} tokens, the model one of {model.vocab_size}; "
            "expected the same vocabulary"
        )


def _sampling(choice: Choice, model: Model, given: Mapping[str, Any]) -> SamplingParams | None:
    chosen = {name: choice.given[name] for name in _SAMPLING if name in choice.given}
    if choice.is_set("penalty_alpha"):
        chosen.pop("top_k", None)
    return SamplingParams.choose(
        choice["do_sample"], chosen, recommended(model, given, _SAMPLING) if choice["do_sample"] else {}
    )


def _ids(prefix: str | tuple[int, ...], model: Model) -> tuple[int, ...]:
    if not isinstance(prefix, str):
        return prefix
    return tuple(encode_text(model, prefix, "prefix", special_tokens=False).ids)
