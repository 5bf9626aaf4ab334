"""What stands beside a vocabulary: `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json`."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from tokenizers import AddedToken, Tokenizer, processors

from qkv.checkpoint.checkpoint import Checkpoint
from qkv.errors import CheckpointError

# In the order in which transformers gives ids to those that a vocabulary lacks.
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")

# Tokens that a number in a file may add: far above any real one.
_MOST = 2**16

_CONFIG, _MAP, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"


def special(content: str, **flags: bool) -> AddedToken:
    return AddedToken(content, **{"special": True, "normalized": False, **flags})


class SpecialTokens:
    """Settings and special tokens of a tokenizer that has no `tokenizer.json`.

    `tokenizer_config.json` overrides the defaults of the tokenizer's class. Where it has no `added_tokens_decoder`
    (transformers writes that since 4.34), `special_tokens_map.json` overrides it in turn and `added_tokens.json` has
    the ids of tokens beyond the vocabulary. That is how transformers reads them.
    """

    def __init__(self, checkpoint: Checkpoint, defaults: Mapping[str, AddedToken]) -> None:
        """`defaults`: the special tokens by name (`bos_token`, ...) where no file gives them.

        Raises:
            CheckpointError: one of the files is broken.
        """
        self._folder = checkpoint.path
        self._config = checkpoint.json(_CONFIG) or {}
        self._added: dict[int, AddedToken] = {}  # by the id that the files promise
        named: dict[str, Any] = self._config
        if "added_tokens_decoder" in self._config:
            self._source = _CONFIG
            for key, entry in self._object(_CONFIG, self._config["added_tokens_decoder"]).items():
                self._added[self._id(key)] = self._token(_CONFIG, entry)
        else:
            self._source = _ADDED
            named = self._config | (checkpoint.json(_MAP) or {})
        self._named = dict(defaults)
        for name in _NAMED:
            if name in named:
                self._named.pop(name, None)
            if named.get(name) is not None:
                self._named[name] = self._token(_CONFIG, named[name], special=True)
        self._extra = self._extras(named)
        if self._source == _ADDED:
            for content, key in (checkpoint.json(_ADDED) or {}).items():
                self._added[self._id(key)] = self._token(_ADDED, content)
        specials = {token.content: token for token in (*self._named.values(), *self._extra)}
        for index, token in self._added.items():
            if not token.special and token.content in specials:
                self._added[index] = specials[token.content]

    def setting(self, name: str, default: Any) -> Any:
        """A value of `tokenizer_config.json`, of the type of `default`; null and a missing key mean `default`.

        Raises:
            CheckpointError: it has another type.
        """
        value = self._config.get(name)
        if value is None:
            return default
        if type(value) is not type(default) or (type(value) is int and not 0 <= value <= _MOST):
            expected = {bool: "true or false", int: f"an integer from 0 to {_MOST}", str: "a string"}[type(default)]
            self._fail(_CONFIG, f"{name} is {reprlib.repr(value)}; expected {expected}")
        return value

    def optional_flag(self, name: str) -> bool | None:
        """As `setting`, where null has a meaning of its own."""
        return None if self._config.get(name) is None else self.setting(name, False)

    def __getitem__(self, name: str) -> str:
        """The text of the special token `name`, such as ``cls_token``.

        Raises:
            CheckpointError: the tokenizer has none.
        """
        if name not in self._named:
            self._fail(_CONFIG, f"the tokenizer needs a special token {name!r}, but there is none")
        return self._named[name].content

    @property
    def texts(self) -> set[str]:
        """The texts of all special tokens that have a name."""
        return {token.content for token in self._named.values()}

    def fill(self, pattern: str, **more: str) -> list[str]:
        """The words of `pattern`, with special tokens in place of ``{cls}`` and so on, and `more` in place of others.

        Raises:
            CheckpointError: the tokenizer lacks one of them.
        """
        return [
            re.sub(r"\{(\w+)\}", lambda name: more.get(name[1]) or self[f"{name[1]}_token"], word)
            for word in pattern.split(" ")
        ]

    def add_to(self, tokenizer: Tokenizer, more: Iterable[AddedToken] = ()) -> None:
        """Make the special tokens known, and those of `more`; the vocabulary grows by those that it lacks.

        Raises:
            CheckpointError: one would get another id than the files say.
        """
        tokens = {token.content: token for _id, token in sorted(self._added.items())}
        for token in (*self._named.values(), *self._extra, *more):
            tokens.setdefault(token.content, token)
        tokenizer.add_tokens(list(tokens.values()))
        for expected, token in self._added.items():
            found = tokenizer.token_to_id(token.content)
            if found != expected:
                self._fail(
                    self._source,
                    f"the added token {token.content!r} has id {expected}, but the vocabulary and the tokens "
                    f"before it make it {found}; ids must follow one another without gaps",
                )

    def template(self, tokenizer: Tokenizer, single: Sequence[str], pair: Sequence[str]) -> None:
        """Let `tokenizer` put special tokens around texts.

        Args:
            single, pair: ``$A`` and ``$B`` for the texts, else special tokens; ``:1`` at the end sets the type id.

        Raises:
            CheckpointError: the vocabulary has no such token.
        """
        texts = {part.partition(":")[0] for part in (*single, *pair)} - {"$A", "$B"}
        ids = [(text, self.id(tokenizer, text)) for text in texts]
        try:
            template = processors.TemplateProcessing(single=list(single), pair=list(pair), special_tokens=ids)
        except ValueError as error:
            raise CheckpointError(f"{self._folder}: special tokens that cannot stand around a text: {error}") from error
        tokenizer.post_processor = template

    def id(self, tokenizer: Tokenizer, text: str) -> int:
        """The id of a special token.

        Raises:
            CheckpointError: the vocabulary does not have it.
        """
        found = tokenizer.token_to_id(text)
        if found is None:
            raise CheckpointError(f"{self._folder}: the vocabulary has no special token {text!r}")
        return found

    def bos_eos_template(self, tokenizer: Tokenizer, add_bos: bool) -> None:
        """For tokenizers that put `bos_token` and `eos_token` around a text as ``add_bos_token`` and ``add_eos_token``
        of the config say, as far as there are such tokens; `add_bos`: the default of the former."""
        bos = [self["bos_token"]] if self.setting("add_bos_token", add_bos) and "bos_token" in self._named else []
        eos = [self["eos_token"]] if self.setting("add_eos_token", False) and "eos_token" in self._named else []
        self.template(tokenizer, [*bos, "$A", *eos], [*bos, "$A", *eos, *_second(bos), "$B:1", *_second(eos)])

    def _extras(self, named: Mapping[str, Any]) -> list[AddedToken]:
        entries: list[Any] = []
        for key in ("additional_special_tokens", "extra_special_tokens"):
            value = named.get(key) or []
            if not isinstance(value, list | dict):
                self._fail(_CONFIG, f"{key} is {reprlib.repr(value)}; expected a list of tokens")
            entries += value.values() if isinstance(value, dict) else value
        return [self._token(_CONFIG, entry, special=True) for entry in entries]

    def _token(self, file: str, entry: Any, **flags: bool) -> AddedToken:
        """The token of a string or an object. What an object says about itself goes before `flags`."""
        fields = {"content": entry} if isinstance(entry, str) else self._object(file, entry)
        content = fields.get("content")
        if not isinstance(content, str) or not _is_unicode(content):
            self._fail(file, f"{reprlib.repr(entry)} is no token; expected its text, or an object with a content")
        for name in _FLAGS:
            value = fields.get(name)
            if isinstance(value, bool) and not (name == "special" and flags.get("special")):
                flags[name] = value
        return AddedToken(content, **{"normalized": not flags.get("special", False), **flags})

    def _object(self, file: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._fail(file, f"found {reprlib.repr(value)} where an object was expected")
        return dict(value)

    def _id(self, key: Any) -> int:
        if type(key) is not int and not (isinstance(key, str) and key.isdecimal()):
            self._fail(self._source, f"{reprlib.repr(key)} is no token id")
        return int(key)

    def _fail(self, file: str, message: str) -> NoReturn:
        raise CheckpointError(f"{self._folder / file}: {message}")


def _second(tokens: list[str]) -> list[str]:
    return [f"{token}:1" for token in tokens]


def _is_unicode(text: str) -> bool:
    """JSON can spell half a surrogate pair, which is no character."""
    return not any(0xD800 <= ord(char) <= 0xDFFF for char in text)
