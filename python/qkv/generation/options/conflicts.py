"""Which options exclude each other, and which need each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qkv.errors import Error
from qkv.generation.options.checkpoint import FILE


class Choice:
    """The value of each option, and whose it is.

    Where options do not go together and the caller gave one of them, that is an error. What only the checkpoint
    recommends gives way, except for do_sample and num_beams: these choose the method, and another one is another text.
    """

    def __init__(self, defaults: Mapping[str, Any], recommended: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        self.given = given
        self._defaults = defaults
        self._recommended = dict(recommended)

    def __getitem__(self, name: str) -> Any:
        if name in self.given:
            return self.given[name]
        return self._recommended.get(name, self._defaults[name])

    def is_set(self, name: str) -> bool:
        """Whether it asks for anything."""
        return bool(self[name] != self._defaults[name])

    def drop(self, name: str) -> None:
        """What the checkpoint recommends gives way."""
        self._recommended.pop(name, None)

    def refuse(self, name: str, why: str) -> None:
        """Raise qkv.Error if this option is the caller's; otherwise it gives way."""
        if name in self.given:
            raise Error(f"{self.says(name)}; {why}")
        self.drop(name)

    def says(self, name: str) -> str:
        """For messages."""
        return f"{name} is {self[name]!r:.60}" + ("" if name in self.given else f" in {FILE}")

    @property
    def method(self) -> str:
        """Which of the options that are set chooses how tokens are searched, for messages; "" is greedy decoding."""
        if self["num_beams"] > 1:
            return self.says("num_beams")
        return self.says("do_sample") if self["do_sample"] else ""


def settle(choice: Choice) -> None:
    """See that the options go together.

    Raises:
        qkv.Error: they do not.
    """
    _one_length(choice, "max_new_tokens", "max_length")
    _one_length(choice, "min_new_tokens", "min_length")
    _not_above(choice, "min_new_tokens", "max_new_tokens")
    _not_above(choice, "min_length", "max_length")
    _beams(choice)
    _contrastive(choice)
    _several(choice)
    _speculation(choice)
    if choice.is_set("keep_state") and choice.is_set("num_beams"):
        choice.refuse("keep_state", "the pages of beams are given back when they end; expected num_beams=1")
    if choice.is_set("penalty_alpha") and choice.is_set("state"):
        choice.refuse("penalty_alpha", "contrastive search needs hidden states of the whole text: a state has none")


def check_streaming(choice: Choice) -> None:
    """
    Raises:
        qkv.Error: the text is not made token by token, or there are several.
    """
    if choice.is_set("num_return_sequences"):
        choice.refuse("num_return_sequences", "streaming shows one text")
    for name, needed in (("num_beams", 1), ("penalty_alpha", None)):
        if choice.is_set(name):
            raise Error(f"{choice.says(name)}, but streaming shows a text as it grows; give {name}={needed}")


def _one_length(choice: Choice, of_new: str, of_all: str) -> None:
    """The caller's is the one that holds, otherwise that of new tokens."""
    if of_new in choice.given and of_all in choice.given:
        raise Error(f"{of_new} and {of_all} are both given; expected one of them")
    if of_all in choice.given:
        choice.drop(of_new)
    elif choice.is_set(of_new):
        choice.drop(of_all)


def _not_above(choice: Choice, least: str, most: str) -> None:
    if least in choice.given and most in choice.given and choice[least] > choice[most]:
        raise Error(f"{choice.says(least)}; expected at most {most}, {choice[most]}")


def _beams(choice: Choice) -> None:
    beams, groups = choice["num_beams"], choice["num_beam_groups"]
    for name in ("num_beam_groups", "diversity_penalty", "length_penalty", "early_stopping"):
        if beams == 1 and choice.is_set(name):
            choice.refuse(name, "it is about beams: give num_beams > 1, too, or leave it out")
    if choice.is_set("num_beam_groups") and beams % groups:
        choice.refuse("num_beam_groups", f"expected a divisor of num_beams, {beams}")
    if choice.is_set("num_beam_groups") and choice["do_sample"]:
        choice.refuse("num_beam_groups", f"groups of beams are not drawn at random, but {choice.says('do_sample')}")
    if choice.is_set("diversity_penalty") and choice["num_beam_groups"] == 1:
        choice.refuse("diversity_penalty", "it keeps groups of beams apart: give num_beam_groups > 1, too")


def _contrastive(choice: Choice) -> None:
    if choice.is_set("penalty_alpha") and choice.method:
        choice.refuse("penalty_alpha", f"contrastive search has one beam and does not sample, but {choice.method}")
    elif choice.is_set("penalty_alpha") and choice["top_k"] is not None and choice["top_k"] < 2:
        choice.refuse(
            "penalty_alpha", f"contrastive search chooses among top_k >= 2 tokens, but {choice.says('top_k')}"
        )


def _several(choice: Choice) -> None:
    """Several texts for a prompt."""
    if choice["return_alternatives"] and choice.method:
        choice.refuse("return_alternatives", f"alternatives are continued greedily, but {choice.method}")
    if choice["return_alternatives"] and choice.is_set("penalty_alpha"):
        choice.refuse("return_alternatives", f"alternatives are continued greedily, but {choice.says('penalty_alpha')}")
    if not choice.is_set("num_return_sequences"):
        return
    wanted, beams = choice["num_return_sequences"], choice["num_beams"]
    if choice.is_set("penalty_alpha"):
        choice.refuse("num_return_sequences", "contrastive search finds one text")
    elif 1 < beams < wanted:
        choice.refuse("num_return_sequences", f"there are no more texts than beams, and {choice.says('num_beams')}")
    elif not choice.method and not choice["return_alternatives"]:
        choice.refuse(
            "num_return_sequences",
            "greedy decoding finds one text: give do_sample=True, num_beams or return_alternatives=True, too",
        )


def _speculation(choice: Choice) -> None:
    lookup, assistant = "prompt_lookup_num_tokens", "assistant_model"
    if choice.is_set(lookup) and choice.is_set(assistant):
        choice.refuse(lookup, "an assistant_model guesses tokens, too; expected one of them")
    for name in (lookup, assistant):
        if not choice.is_set(name):
            continue
        for other in ("num_beams", "penalty_alpha", "num_return_sequences", "return_alternatives"):
            if choice.is_set(other):
                choice.refuse(name, f"guessed tokens are for one text that grows, but {choice.says(other)}")
    for name, needed in (("max_matching_ngram_size", lookup), ("num_assistant_tokens", assistant)):
        if choice.is_set(name) and not choice.is_set(needed):
            choice.refuse(name, f"it needs {needed}")
