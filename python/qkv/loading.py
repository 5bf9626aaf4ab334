"""Opening a checkpoint: found, checked, its graph built, weights packed as they stream from the disk. A packed file
has them packed already: `pack` writes it, `load` opens it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from qkv import models
from qkv.checkpoint import (
    Checkpoint,
    Weights,
    describe_unused,
    load_tokenizer,
    locate,
    sentence_modules,
    unused_weights,
)
from qkv.errors import Error, UnusedSettings, UnusedWeights
from qkv.graph import Graph, lower
from qkv.graph.pack import Packer
from qkv.machine import default_threads
from qkv.model import Model
from qkv.models.heads import Head
from qkv.packed import PackedFile, PackedWeights, write

DTYPES = ("auto", "float32", "bfloat16", "int8", "int4")
KV_DTYPES = ("auto", "float32", "bfloat16", "int8")
# sentence-transformers' names -> the program's
_POOLINGS = {"mean": "mean", "cls": "first", "lasttoken": "last", "max": "max"}


def load(
    path_or_id: str | Path,
    *,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    kv_cache_bytes: int | None = None,
    num_threads: int | None = None,
    packed_from: str | Path | None = None,
    mmap: bool = True,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Model:
    """Open a Hugging Face checkpoint: a local folder as it is, or a hub id. Or a file that `qkv.pack` wrote.

    Args:
        path_or_id: folder with config.json, safetensors and a tokenizer, "owner/name" on the hub, or a packed file.
        dtype: of the weight matrices in memory.
            "float32";
            "bfloat16": half the memory, activations stay float32 or are rounded where the machine multiplies bfloat16;
            "int8": a quarter, one scale for each output channel, activations quantised token by token;
            "int4": about a seventh, in groups of 32 inputs; token embeddings and the output layer are int8.
            "auto": the smallest of float32 and bfloat16 that holds every weight exactly: bfloat16 for a checkpoint
            whose matrices are all bfloat16, float32 for any other. The machine does not matter: every one generates
            tokens in bfloat16 about twice as fast, reading half the memory, while many tokens at once (encoders,
            prompts) can be somewhat faster in float32. float16 is widened to float32, because bfloat16 would drop 3
            of its bits; ask for "bfloat16" to halve the memory all the same. Of a packed file: what it has.
        kv_dtype: of attention's keys and values, in the cache and without one: "float32", "bfloat16" or "int8" (one
            scale for each position and head). "auto": float32 for float32 weights, bfloat16 for narrower ones.
        kv_cache_bytes: the most that keys and values of all texts may take, those being written and those kept for
            texts that begin alike. Memory is taken as it is needed. By default a quarter of what is available when the
            first text is written.
        num_threads: threads of a run; by default the physical cores that this process may use.
        packed_from: for a packed file: refuse it unless it was packed from this checkpoint (folder or hub id) as it is
            now. That reads the checkpoint once.
        mmap: for a packed file: False copies it to memory instead of mapping it. That takes longer to open, but where
            Linux maps files in small pages only (ext4 before 6.16), text comes about a fifth faster.
        revision, token, cache_dir, local_files_only: as huggingface_hub takes them; only for a hub id.

    Raises:
        qkv.CheckpointError: the checkpoint is missing, damaged, or not what its config promises.
        qkv.UnsupportedArchitecture: its model_type or one of its options is not implemented.
        qkv.Error: an argument is out of range.

    Warns:
        qkv.UnusedWeights: the checkpoint holds weights that the model does not use; once, with their names.
        qkv.UnusedSettings: its generation_config.json asks for something that `Model.generate` does not implement.
    """
    threads = _check_arguments("load", dtype, num_threads)
    if kv_dtype not in KV_DTYPES:
        raise Error(f"load: kv_dtype {kv_dtype!r} is not one of {', '.join(KV_DTYPES)}")
    if kv_cache_bytes is not None and (type(kv_cache_bytes) is not int or kv_cache_bytes < 1):
        raise Error(f"load: kv_cache_bytes must be a positive integer, not {kv_cache_bytes!r}")

    def source(name: str | Path) -> Checkpoint:
        return Checkpoint.open(
            locate(name, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        )

    # os.path, because it does not raise on names that no file can have.
    path = os.path.expanduser(path_or_id)  # noqa: PTH111
    if not os.path.isfile(path):  # noqa: PTH113
        if packed_from is not None:
            raise Error(f"load: packed_from is about packed files, and {path_or_id!r} is none")
        with source(path_or_id) as checkpoint:
            return _open(checkpoint, Packer(_resolve(dtype, checkpoint), threads), kv_dtype, kv_cache_bytes)
    with PackedFile.open_file(Path(path), threads, in_memory=not mmap) as packed:
        held = packed.header.dtype
        if dtype not in ("auto", held):
            raise Error(f"load: {path} holds {held} weights, not {dtype}; leave dtype out or pack the model as {dtype}")
        packed.check_layout()
        if packed_from is not None:
            with source(packed_from) as checkpoint:
                packed.check_source(checkpoint, threads)
        return _open(packed, PackedWeights(packed, threads), kv_dtype, kv_cache_bytes)


def pack(
    path_or_id: str | Path,
    file: str | Path,
    *,
    dtype: str = "auto",
    num_threads: int | None = None,
    force: bool = False,
    progress: Callable[[int, int], object] | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> None:
    """Write a checkpoint to one file that `qkv.load` opens at once: its weights are packed already, for machines with
    this machine's instruction set, and mapped.

    Args:
        file: the file to write; its folder must exist.
        dtype, num_threads, revision, token, cache_dir, local_files_only: as in `qkv.load`.
        force: replace a file that is there.
        progress: called with the bytes of the checkpoint that are packed, and with those that it has.

    Raises:
        qkv.Error: as `qkv.load`; or the file exists or can't be written.
    """
    threads = _check_arguments("pack", dtype, num_threads)
    file = Path(file).expanduser()
    if not file.absolute().parent.is_dir():
        raise Error(f"pack: there is no folder {file.absolute().parent} to write {file.name} to")
    if file.exists() and (not force or not file.is_file()):
        hint = "replace it with force (--force)" if file.is_file() else "it is no file that could be replaced"
        raise Error(f"pack: {file} exists; {hint}")
    folder = locate(path_or_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    with Checkpoint.open(folder) as checkpoint:
        done, total = 0, sum(tensor.nbytes for tensor in checkpoint.tensors.values())

        def count(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if progress:
                progress(done, total)

        packer = Packer(_resolve(dtype, checkpoint), threads, count)
        _open(checkpoint, packer)
        write(file, checkpoint, packer)


def _check_arguments(what: str, dtype: str, num_threads: int | None) -> int:
    """The number of threads."""
    if dtype not in DTYPES:
        raise Error(f"{what}: dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    threads = default_threads() if num_threads is None else num_threads
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= 1024:
        raise Error(f"{what}: num_threads must be an integer from 1 to 1024, not {num_threads!r}")
    return threads


def _resolve(dtype: str, checkpoint: Checkpoint) -> str:
    """`dtype`; for "auto" the smallest that holds every matrix exactly. Integers (BERT's `position_ids`) are not
    weights."""
    if dtype != "auto":
        return dtype
    matrices = [t for t in checkpoint.tensors.values() if len(t.shape) >= 2 and "float" in t.dtype]
    return "bfloat16" if matrices and all(t.dtype == "bfloat16" for t in matrices) else "float32"


def _open(checkpoint: Checkpoint, packer: Packer, kv_dtype: str = "auto", kv_cache_bytes: int | None = None) -> Model:
    where = str(checkpoint.path / "config.json")
    architecture = models.architecture(checkpoint.config.get("model_type"), where)
    config = architecture.Config.from_dict(checkpoint.config, where)
    from qkv.generation.options.checkpoint import describe_unimplemented, settings, unimplemented  # see qkv/__init__.py

    modules = sentence_modules(checkpoint)
    graph = Graph()
    hidden = architecture.build(graph, config, Weights(checkpoint).unwrapped())
    generation_config = settings(checkpoint.json("generation_config.json"), checkpoint.config, config)
    if not isinstance(checkpoint, PackedFile):  # who packed it was told already
        if names := unused_weights(checkpoint):
            warnings.warn(describe_unused(checkpoint, names), UnusedWeights, stacklevel=3)
        if names := unimplemented(generation_config):
            warnings.warn(describe_unimplemented(checkpoint.path, names), UnusedSettings, stacklevel=3)
    if hidden.rows == "tokens":  # an encoder with a decoder is for that alone
        graph.output("embedding", graph.pool(hidden, _POOLINGS[modules.pooling]))
    lowered = lower(graph, packer, kv_dtype)
    return Model(
        model_type=str(checkpoint.config["model_type"]),
        config=config,
        lowered=lowered,
        tokenizer=load_tokenizer(checkpoint),
        sentence_modules=modules,
        labels=Head.of(checkpoint).labels,
        generation_config=generation_config,
        dtype=packer.dtype,
        nbytes=packer.nbytes,
        num_threads=packer.threads,
        kv_cache_bytes=kv_cache_bytes,
    )
