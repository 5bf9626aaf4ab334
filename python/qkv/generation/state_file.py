"""Files of saved states: safetensors, with notes that say which model made them, and a checksum at the end."""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import reprlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.checkpoint import Config
from qkv.checkpoint.folder import parse_object
from qkv.checkpoint.tensors import Shard
from qkv.errors import CheckpointError, Error
from qkv.generation.pool import pages_for
from qkv.generation.prefixes import NO_PAGE
from qkv.generation.state import State
from qkv.machine import __version__

if TYPE_CHECKING:
    from qkv.model import Model

FORMAT_VERSION = 1
METADATA_KEY = "qkv state"  # of the safetensors header: holds the fields of Header as JSON

# What the model makes of these tokens tells it from others: they go through every layer.
_PROBE_TOKENS = 16
# Largest difference, of the largest value: between C libraries on one instruction set, and between instruction sets.
_SAME_ISA, _OTHER_ISA = 1e-3, 5e-2


@dataclass
class Header(Config):
    """
    Attributes:
        model: what `_describe` says of the model.
        isa: the instruction set that the keys and values were made with.
        tokens, past, planned: see `State`.
        absent: how many pages were freed behind sliding windows.
    """

    ZERO_OK: ClassVar[frozenset[str]] = frozenset({"past", "absent"})

    format_version: int
    qkv_version: str
    model: dict[str, Any]
    isa: str
    tokens: int
    past: int
    planned: int
    absent: int

    @property
    def pages(self) -> int:
        """How many there are in the file."""
        return pages_for(self.past) - self.absent


def _describe(model: Model) -> dict[str, Any]:
    """What two models must have in common to read each other's pages."""
    return {
        "model_type": model.model_type,
        "dtype": model.dtype,
        "kv_dtype": model.kv_dtype,
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "layers": model.kv_pool.shape.layers,
        "kv_heads": model.kv_pool.shape.kv_heads,
        "head_dim": model.kv_pool.shape.head_dim,
    }


def _probe(model: Model) -> NDArray[np.float32]:
    """The hidden state behind some tokens, [hidden_size]."""
    tokens = min(_PROBE_TOKENS, model.context_length or _PROBE_TOKENS)
    hidden = model.run("hidden_states", [np.arange(tokens, dtype=np.int32) * 7 % model.vocab_size])
    return np.ascontiguousarray(hidden[-1])


def _layout(header: Header, model: Model) -> dict[str, tuple[str, list[int]]]:
    """Type and shape of each entry, in the file's order."""
    return {
        "ids": ("I32", [header.tokens]),
        "probe": ("F32", [model.hidden_size]),
        "pages": ("U8", [header.pages, model.kv_pool.cache.page_nbytes]),
        "checksum": ("U8", [8]),
    }


def write(path: Path, state: State, model: Model) -> None:
    """See `State.save`."""
    header = Header(
        format_version=FORMAT_VERSION,
        qkv_version=__version__,
        model=_describe(model),
        isa=_ext.chosen_isa()["isa"],
        tokens=len(state),
        past=state.past,
        planned=state.planned,
        absent=state.pages.count(NO_PAGE),
    )
    part = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        part = Path(name)
        with open(handle, "w+b") as file:  # noqa: PTH123
            for piece in _pieces(header, state, model):
                file.write(piece)
            _end(file, model.num_threads)
        part.replace(path)
    except OSError as error:
        raise Error(f"{path} could not be written: {error.strerror}") from error
    finally:
        if part:
            part.unlink(missing_ok=True)


def _pieces(header: Header, state: State, model: Model) -> Iterator[bytes | memoryview]:
    """All but the checksum."""
    notes = {key: value for key, value in dataclasses.asdict(header).items() if key != "where"}
    table: dict[str, Any] = {"__metadata__": {METADATA_KEY: json.dumps(notes)}}
    at = 0
    for name, (tag, shape) in _layout(header, model).items():
        nbytes = int(np.prod(shape)) * (1 if tag == "U8" else 4)
        table[name] = {"dtype": tag, "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    yield np.array(state.ids, "<i4").data.cast("B")
    yield _probe(model).data.cast("B")
    for i, page in enumerate(state.pages):
        if page != NO_PAGE:
            yield model.kv_pool.cache.read(page, min(_ext.page_tokens, state.past - i * _ext.page_tokens)).data


def _end(file: BinaryIO, threads: int) -> None:
    file.flush()
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        checksum = _ext.checksum(np.frombuffer(content, np.uint8), threads)
    file.write(checksum.to_bytes(8, "little"))
    file.flush()
    os.fsync(file.fileno())


def read(path: Path, model: Model) -> State:
    """See `Model.load_state`."""
    if not path.is_file():
        raise CheckpointError(f"{path} is not a regular file; expected one that `State.save` wrote")
    try:
        shard = Shard(path)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is no saved state, or not all of one. {error}") from error
    try:
        header = _header(shard, model)
        _check_model(shard, header, model)
        return _state(shard, header, model)
    finally:
        shard.close()


def _header(shard: Shard, model: Model) -> Header:
    """Of a file that is whole."""
    path = shard.path
    if (text := shard.metadata.get(METADATA_KEY)) is None:
        raise CheckpointError(f"{path} is a safetensors file, but not one that `State.save` wrote")
    raw = parse_object(text.encode(), path)
    if (version := raw.get("format_version")) != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has version {reprlib.repr(version)} of saved states; this qkv reads version {FORMAT_VERSION}"
        )
    content = shard.content()
    if _ext.checksum(content[:-8], model.num_threads) != int.from_bytes(content[-8:].tobytes(), "little"):
        raise CheckpointError(f"{path} is damaged: its contents do not give its checksum")
    return Header.from_dict(raw, str(path))


def _check_model(shard: Shard, header: Header, model: Model) -> None:
    """Raise CheckpointError unless the file was made by this model, and has what its header promises."""
    own = _describe(model)
    differ = [
        f"{key} is {reprlib.repr(header.model.get(key))} there and {value!r} here"
        for key, value in own.items()
        if header.model.get(key) != value
    ]
    header.require(not differ, f"the state was saved with another model: {', '.join(differ)}")
    header.require(
        header.past <= header.tokens <= header.planned,
        f"past {header.past}, tokens {header.tokens} and planned {header.planned} must not decrease",
    )
    reach = model.kv_pool.reach
    unseen = 0 if reach is None else max(0, header.past - reach) // _ext.page_tokens
    header.require(header.absent <= unseen, f"{header.absent} pages are absent; expected at most {unseen}")
    found = {name: (info.dtype, list(info.shape)) for name, info in shard.tensors.items()}
    expected = {
        name: ("float32" if tag == "F32" else tag, shape) for name, (tag, shape) in _layout(header, model).items()
    }
    header.require(found == expected, f"it has the entries {found}; expected {expected}")
    last = shard.tensors["checksum"]
    header.require(last.offset + last.nbytes == shard.content().size, "the checksum is not at its end")

    probe, theirs = _probe(model), shard.raw(shard.tensors["probe"]).copy().view(np.float32)
    tolerance = _SAME_ISA if header.isa == _ext.chosen_isa()["isa"] else _OTHER_ISA
    header.require(
        bool(np.abs(probe - theirs).max() <= tolerance * np.abs(probe).max()),
        "the state was saved with another model: its weights or configuration differ",
    )


def _state(shard: Shard, header: Header, model: Model) -> State:
    ids = shard.raw(shard.tensors["ids"]).copy().view(np.int32)
    header.require(
        bool(((ids >= 0) & (ids < model.vocab_size)).all()), f"a token id is not in 0 ... {model.vocab_size - 1}"
    )
    pool = model.kv_pool
    reservation = pool.reserve(header.pages)
    if reservation is None:
        megabytes = header.pages * pool.cache.page_nbytes / 1e6
        raise Error(
            f"{shard.path}: its {megabytes:.1f} MB of keys and values do not fit beside those in use ({pool!r}); "
            "release other states, or open the model with a larger kv_cache_bytes"
        )
    pages = [NO_PAGE] * header.absent
    state = State(model, ids.tolist(), header.past, header.planned, pages, reservation, shared=False)
    for page in shard.raw(shard.tensors["pages"]).reshape(header.pages, -1):
        pages.append(pool.allocate())
        pool.cache.write(pages[-1], page)
    return state
