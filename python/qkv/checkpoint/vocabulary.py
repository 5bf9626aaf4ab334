"""Vocabularies as JSON: from pieces to ids."""

from __future__ import annotations

import reprlib
from pathlib import Path

from qkv.checkpoint.config import LIMIT
from qkv.checkpoint.folder import parse_object
from qkv.errors import CheckpointError


def dense_vocabulary(data: bytes, where: Path) -> dict[str, int]:
    """The ids of the pieces of a `vocab.json`: each of 0 … n-1 once.

    Raises:
        CheckpointError: it is something else.
    """
    vocabulary = parse_object(data, where)
    if not 1 <= len(vocabulary) <= LIMIT:
        raise CheckpointError(f"{where} holds {len(vocabulary)} pieces; expected 1 to {LIMIT}")
    seen = bytearray(len(vocabulary))
    for piece, index in vocabulary.items():
        if type(index) is not int or not 0 <= index < len(vocabulary) or seen[index]:
            raise CheckpointError(
                f"{where}: the piece {reprlib.repr(piece)} has id {reprlib.repr(index)}; "
                f"expected each of 0 to {len(vocabulary) - 1} once"
            )
        seen[index] = 1
    return vocabulary
