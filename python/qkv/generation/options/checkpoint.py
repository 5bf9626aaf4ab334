"""What a checkpoint recommends: its generation_config.json, or an older config.json that says the same."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkv.errors import CheckpointError, Error
from qkv.generation.options import values
from qkv.generation.rules import special_token
from qkv.generation.sampling import SamplingParams

if TYPE_CHECKING:
    from qkv.model import Model

FILE = "generation_config.json"

# Options that Hugging Face reads from the file, too; those of sampling count only where tokens are drawn.
RECOMMENDED = (
    "max_new_tokens", "max_length", "min_new_tokens", "min_length", "max_time", "stop_strings", "eos_token_id",
    "do_sample", "num_return_sequences", "penalty_alpha",
    "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
    "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "logit_bias",
    "forced_bos_token_id", "forced_eos_token_id",
    "num_beams", "num_beam_groups", "diversity_penalty", "length_penalty", "early_stopping",
    "prompt_lookup_num_tokens", "max_matching_ngram_size", "num_assistant_tokens",
)  # fmt: skip

# What changes a text and is not implemented, with the value that asks for nothing.
_UNIMPLEMENTED: Mapping[str, Any] = {
    "constraints": None,
    "dola_layers": None,
    "exponential_decay_length_penalty": None,
    "force_words_ids": None,
    "forced_decoder_ids": None,
    "guidance_scale": 1,
    "renormalize_logits": False,
    "sequence_bias": None,
    "token_healing": False,
    "top_h": None,
    "watermarking_config": None,
}
# transformers wrote its own default of max_length to files; as a recommendation it would cut every text.
_NO_MAX_LENGTH = 20


def settings(file: Mapping[str, Any] | None, config_json: Mapping[str, Any], config: object) -> dict[str, Any]:
    """What `Model.generation_config` is: the file's contents or, where there is none, what config.json says about
    generation, with the architecture's defaults."""
    if file is not None:
        return dict(file)
    names = [*RECOMMENDED, *(f.name for f in fields(SamplingParams)), *_UNIMPLEMENTED]
    said = {name: config_json.get(name, getattr(config, name, None)) for name in names}
    return {name: value for name, value in said.items() if value is not None}


def unimplemented(settings: Mapping[str, Any]) -> list[str]:
    """The names of settings that transformers would follow and this package does not, sorted."""
    return sorted(
        name
        for name, nothing in _UNIMPLEMENTED.items()
        if settings.get(name) not in (None, nothing, [], {}) and not (name == "sequence_bias" and _is_bias(settings))
    )


def describe_unimplemented(folder: Path, names: list[str]) -> str:
    """A sentence or two for people."""
    return (
        f"{folder}: {', '.join(names)} in {FILE} {'is' if len(names) == 1 else 'are'} not implemented: "
        "Model.generate goes without, and its texts differ from those of transformers"
    )


def recommended(model: Model, given: Collection[str], names: Iterable[str]) -> dict[str, Any]:
    """The checkpoint's values of options that the caller did not give, as `values.read` returns them.

    Token ids outside the vocabulary are left out: these tokens never come.

    Raises:
        qkv.CheckpointError: a value is not what it should be.
    """
    said = {name: _said(model, name) for name in names if name not in given}
    said = {name: value for name, value in said.items() if value is not None}
    try:
        return {name: values.known_tokens(name, values.read(name, v), model.vocab_size) for name, v in said.items()}
    except Error as error:
        raise CheckpointError(f"{FILE}: {error}") from error


def _said(model: Model, name: str) -> Any:
    settings = model.generation_config
    if name == "eos_token_id":
        return special_token(model, name)
    if name == "max_length" and settings.get(name) == _NO_MAX_LENGTH:
        return None
    if name == "logit_bias":
        return {ids[0]: bias for ids, bias in settings["sequence_bias"]} if _is_bias(settings) else None
    return settings.get(name)


def _is_bias(settings: Mapping[str, Any]) -> bool:
    """Whether there is a sequence_bias, [[token ids, number], ...], of single tokens, which is a logit_bias."""
    rows = settings.get("sequence_bias")
    return isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == 2 and isinstance(row[0], list) and [type(t) for t in row[0]] == [int]
        for row in rows
    )
