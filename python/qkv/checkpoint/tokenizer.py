"""The tokenizer of a checkpoint."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkv.checkpoint.checkpoint import Checkpoint
from qkv.checkpoint.folder import parse_object
from qkv.checkpoint.sentencepiece_model import check_charsmap
from qkv.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


# Any but an empty continuation prefix, or an escape that could hide one. To search is much faster than to parse.
_MAY_HAVE_PREFIX = re.compile(rb"""\\u|"continuing_subword_prefix"(?!\s*:\s*(null|""))""")


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    """The tokenizer of ``tokenizer.json``, else one made of the older files; None when the checkpoint has neither.

    Padding and truncation are switched off: this package does not pad, and callers cut text themselves.

    Raises:
        CheckpointError: a file is broken, or does not fit the others.
        UnsupportedArchitecture: there are older files, but of a kind of tokenizer that is not known.
    """
    data = checkpoint.file("tokenizer.json")
    tokenizer: Tokenizer | None
    if data is not None:
        tokenizer = _parse(data, checkpoint.path / "tokenizer.json")
    else:
        from qkv.checkpoint.older_tokenizer import from_older_files

        tokenizer = from_older_files(checkpoint)
    if tokenizer is not None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
    return tokenizer


def _parse(data: bytes, path: Path) -> Tokenizer:
    if _MAY_HAVE_PREFIX.search(data):
        _check_merges(parse_object(data, path).get("model"), path)
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(data)
    except BaseException as error:
        # tokenizers raises plain Exception, or where its Rust code panics a PanicException that is none.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        parse_object(data, path)  # where the file is no JSON object, this says so
        raise CheckpointError(f"{path} is not a valid tokenizer: {error}") from error
    if tokenizer.normalizer is not None:
        try:
            _check_charsmaps(json.loads(tokenizer.normalizer.__getstate__()))
        except ValueError as error:
            raise CheckpointError(f"{path} is not a valid tokenizer: {error}") from error
    return tokenizer


def _check_charsmaps(normalizer: dict[str, Any]) -> None:
    """Raise ValueError where one of sentencepiece's character maps is broken: tokenizers would panic in mid-text."""
    for part in normalizer.get("normalizers", ()):
        _check_charsmaps(part)
    if charsmap := normalizer.get("precompiled_charsmap"):
        check_charsmap(base64.b64decode(charsmap))


def _check_merges(model: Any, path: Path) -> None:
    """Refuse a merge whose second part lacks the continuation prefix.

    tokenizers (0.23) cuts the prefix off without looking, and ends the process when that splits a character.
    """
    if not isinstance(model, dict) or not isinstance(prefix := model.get("continuing_subword_prefix"), str):
        return
    for merge in model.get("merges") or ():
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not str(parts[1]).startswith(prefix):
            raise CheckpointError(f"{path}: the merge {merge!r} does not continue with the prefix {prefix!r}")
