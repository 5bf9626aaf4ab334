"""Opening a checkpoint: found, checked, its graph built, weights packed as they stream from the disk."""

from __future__ import annotations

from pathlib import Path

from qkv import models
from qkv.checkpoint import Checkpoint, Weights, load_tokenizer, locate, sentence_modules
from qkv.errors import Error
from qkv.graph import Graph, lower
from qkv.graph.pack import Packer
from qkv.machine import default_threads
from qkv.model import Model

DTYPES = ("auto", "float32", "bfloat16", "int8", "int4")
KV_DTYPES = ("auto", "float32", "bfloat16", "int8")
# sentence-transformers' names -> the program's
_POOLINGS = {"mean": "mean", "cls": "first", "lasttoken": "last", "max": "max"}


def load(
    path_or_id: str | Path,
    *,
    dtype: str = "auto",
    kv_dtype: str = "auto",
    num_threads: int | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Model:
    """Open a Hugging Face checkpoint: a local folder as it is, or a hub id.

    Args:
        path_or_id: folder with config.json, safetensors and tokenizer.json, or "owner/name" on the hub.
        dtype: of the weight matrices in memory.
            "float32";
            "bfloat16": half the memory, activations stay float32 or are rounded where the machine multiplies bfloat16;
            "int8": a quarter, one scale for each output channel, activations quantised token by token;
            "int4": about a seventh, in groups of 32 inputs; token embeddings and the output layer are int8.
            "auto": the smallest of float32 and bfloat16 that holds every weight exactly: bfloat16 for a checkpoint
            whose matrices are all bfloat16, float32 for any other. The machine does not matter: every one generates
            tokens in bfloat16 about twice as fast, reading half the memory, while many tokens at once (encoders,
            prompts) can be somewhat faster in float32. float16 is widened to float32, because bfloat16 would drop 3
            of its bits; ask for "bfloat16" to halve the memory all the same.
        kv_dtype: of attention's keys and values, in the cache and without one: "float32", "bfloat16" or "int8" (one
            scale for each position and head). "auto": bfloat16 for a decoder whose weights are narrower than float32,
            float32 for any other model.
        num_threads: threads of a run; by default the physical cores that this process may use.
        revision, token, cache_dir, local_files_only: as huggingface_hub takes them; only for a hub id.

    Raises:
        qkv.CheckpointError: the checkpoint is missing, damaged, or not what its config promises.
        qkv.UnsupportedArchitecture: its model_type or one of its options is not implemented.
        qkv.Error: an argument is out of range.
    """
    if dtype not in DTYPES:
        raise Error(f"load: dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if kv_dtype not in KV_DTYPES:
        raise Error(f"load: kv_dtype {kv_dtype!r} is not one of {', '.join(KV_DTYPES)}")
    threads = default_threads() if num_threads is None else num_threads
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= 1024:
        raise Error(f"load: num_threads must be an integer from 1 to 1024, not {num_threads!r}")
    folder = locate(path_or_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
    with Checkpoint.open(folder) as checkpoint:
        return _open(checkpoint, dtype, kv_dtype, threads)


def _open(checkpoint: Checkpoint, dtype: str, kv_dtype: str, threads: int) -> Model:
    where = str(checkpoint.path / "config.json")
    architecture = models.architecture(checkpoint.config.get("model_type"), where)
    config = architecture.Config.from_dict(checkpoint.config, where)
    modules = sentence_modules(checkpoint)
    if dtype == "auto":
        dtype = _exact_dtype(checkpoint)

    graph = Graph()
    hidden = architecture.build(graph, config, Weights(checkpoint))
    graph.output("embedding", graph.pool(hidden, _POOLINGS[modules.pooling]))
    packer = Packer(dtype, threads)
    lowered = lower(graph, packer, kv_dtype)
    return Model(
        config=config,
        lowered=lowered,
        tokenizer=load_tokenizer(checkpoint),
        sentence_modules=modules,
        generation_config=checkpoint.json("generation_config.json") or {},
        dtype=dtype,
        nbytes=packer.nbytes,
        num_threads=threads,
    )


def _exact_dtype(checkpoint: Checkpoint) -> str:
    """The smallest dtype that holds every matrix exactly. Integers (BERT's `position_ids`) are not weights."""
    matrices = [t for t in checkpoint.tensors.values() if len(t.shape) == 2 and "float" in t.dtype]
    return "bfloat16" if matrices and all(t.dtype == "bfloat16" for t in matrices) else "float32"
