"""Reading a sentencepiece model file (Kudo, Richardson 2018): pieces, their scores, and how text is normalised.

The file is a protocol buffer of the message ModelProto. Its wire format is a run of fields: a key, which holds the
field's number and how its value is stored, then the value. The few fields that matter here are read directly, so that
no file ever reaches a parser in C++. See https://protobuf.dev/programming-guides/encoding and sentencepiece_model.proto
in https://github.com/google/sentencepiece.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qkv.errors import CheckpointError


class Kind(IntEnum):
    """Of a piece."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Piece(NamedTuple):
    text: str
    score: float
    kind: Kind


@dataclass(frozen=True)
class SentencePieceModel:
    """
    Attributes:
        pieces: by id.
        unknown: id of the piece that stands for what no other covers.
        is_bpe: pieces are merged in the order of their scores; otherwise their scores are log probabilities (Unigram).
        charsmap: normalisation of characters, a trie and the texts that its values point at; may be empty.
        dummy_prefix: whether a text begins with a space.
        strips: whether runs of spaces are one space, and none is left at the ends.
    """

    pieces: list[Piece]
    unknown: int
    is_bpe: bool
    charsmap: bytes
    dummy_prefix: bool
    strips: bool


def read_model(data: bytes, where: Path) -> SentencePieceModel:
    """The model that a file holds; `where` is the file, for messages.

    Raises:
        CheckpointError: it is no sentencepiece model, or one that is broken or neither BPE nor Unigram.
    """
    try:
        return _model(data)
    except (ValueError, IndexError, struct.error) as error:
        raise CheckpointError(f"{where} is not a sound sentencepiece model: {error}") from error


def _model(data: bytes) -> SentencePieceModel:
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value))
        elif number == 2 and isinstance(value, bytes):
            trainer = dict(_fields(value))
        elif number == 3 and isinstance(value, bytes):
            normalizer = dict(_fields(value))
    unknown = [index for index, piece in enumerate(pieces) if piece.kind is Kind.UNKNOWN]
    if len(unknown) != 1:
        raise ValueError(f"{len(unknown)} of its {len(pieces)} pieces are of the kind 'unknown'; expected one")
    if len({piece.text for piece in pieces}) != len(pieces):
        raise ValueError("two of its pieces are the same")
    if (algorithm := trainer.get(3, 1)) not in (1, 2):
        raise ValueError(f"it is of type {algorithm!r}; only Unigram (1) and BPE (2) are supported")
    charsmap = normalizer.get(2, b"")
    if not isinstance(charsmap, bytes):
        raise ValueError("its normalisation is no run of bytes")
    if charsmap:
        check_charsmap(charsmap)
    return SentencePieceModel(
        pieces,
        unknown[0],
        is_bpe=algorithm == 2,
        charsmap=charsmap,
        dummy_prefix=bool(normalizer.get(3, 1)),
        strips=bool(normalizer.get(4, 1)),
    )


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    text, score, kind = fields.get(1), fields.get(2, bytes(4)), fields.get(3, 1)
    if not isinstance(text, bytes) or not text or not isinstance(score, bytes) or not isinstance(kind, int):
        raise ValueError("a piece lacks its text, or its score or kind is of another type")
    (value,) = struct.unpack("<f", score)
    if not math.isfinite(value):
        raise ValueError(f"the score of the piece {text!r} is {value}")
    return Piece(text.decode(), value, Kind(kind))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: their numbers and values, bytes as they are but for integers of variable length."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field at byte {at} is of the wire type {wire}")
        if at + size > len(data):
            raise ValueError(f"a field at byte {at} has {size} bytes, beyond the end; is the file cut off?")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """An integer, seven bits a byte and the lowest first, and where it ends."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value, shift = byte & 0x7F, 7
    while byte >= 0x80:
        at += 1
        if shift > 63:
            raise ValueError("an integer has more than 64 bits")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift += 7
    return value, at + 1


def check_charsmap(charsmap: bytes) -> None:
    """Raise ValueError unless every path through the trie, and what its values point at, stays inside `charsmap`.

    tokenizers follows them without looking. The layout: the size of the trie in 4 bytes, its units of 4 bytes each
    (a double array: https://github.com/s-yata/darts-clone), then texts that end with a byte of 0.
    """
    size = int.from_bytes(charsmap[:4], "little")
    texts = np.frombuffer(charsmap, np.uint8, offset=min(4 + size, len(charsmap)))
    if size == 0 or size % 4 or 4 + size > len(charsmap) or (texts.size and texts[-1] != 0):
        raise ValueError("its character map is cut off")
    charsmap[4 + size :].decode()
    units = np.frombuffer(charsmap, "<u4", count=size // 4, offset=4)
    inner = units >> 31 == 0  # the others hold values, and no path goes on from there; but all begin at the root
    inner[0] = True
    child = np.arange(units.size, dtype=np.uint32) ^ ((units >> 10) << ((units & 0x200) >> 6))
    # The next unit is at `child ^ byte`.
    if (child[inner] | 0xFF).max(initial=0) >= units.size:
        raise ValueError("its character map points outside itself")
    values = units[child[inner & (units & 0x100 != 0)]] & 0x7FFFFFFF
    if values.size and values.max() >= texts.size:
        raise ValueError("its character map points outside its texts")
    if (texts[values] & 0xC0 == 0x80).any():
        raise ValueError("its character map points into the middle of a character")
