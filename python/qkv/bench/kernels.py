"""The cases of single kernels: linear layers with many rows and with one, and attention."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from qkv import _ext
from qkv.bench.timing import Case, Job, Machine, timer

_Float32 = npt.NDArray[np.float32]

# (out, in): attention output and FFN of BERT-base and GPT-2, FFN of a LLaMA of 1.1 B
SHAPES = ((768, 768), (3072, 768), (768, 3072), (5632, 2048))
ROWS = (24, 128, 512)
FEW_ROWS = (6, 9, 13, 16, 23)
HEADS, HEAD_DIM = 12, 64
WIDTH = HEADS * HEAD_DIM
CACHED = 2048  # positions that attention decodes over

# Bits of a weight; groups of 32 int4 weights share a scale of 16 bits.
_BITS = {"float32": 32.0, "bfloat16": 16.0, "int8": 8.0, "int4": 4.5}


def arithmetic(dtype: str) -> str:
    """The ceiling of products with weights of this type."""
    return "int8" if dtype == "int4" else dtype


def gemm(machine: Machine, dtype: str) -> Iterator[Case]:
    """Many rows: the kernel alone on prepared input, and a whole layer as models run it."""
    shapes = SHAPES[1:3] if machine.quick else SHAPES
    int4 = dtype == "int4"
    for rows in (128,) if machine.quick else ROWS:
        if not (int4 and rows < 128):
            yield from (_gemm_case(machine, dtype, "inner loop", rows, *s, 0.75 if int4 else 0.92) for s in shapes)
    whole = {"int8": 0.80, "int4": None}.get(dtype, 0.85)
    for rows in (128,) if machine.quick else ROWS:
        yield from (_gemm_case(machine, dtype, "whole layer", rows, *s, whole) for s in shapes)
    for rows in (9,) if machine.quick else FEW_ROWS:
        goal = None if int4 else 0.80
        yield from (_gemm_case(machine, dtype, "whole layer", rows, *s, goal) for s in shapes)


def _gemm_case(machine: Machine, dtype: str, what: str, rows: int, out: int, n: int, goal: float | None) -> Case:
    def make() -> Job:
        """The whole layer has a bias and a residual, and a GELU where it widens, as in an FFN."""
        whole = what == "whole layer"
        weight, x = packed(dtype, out, n, whole, machine.threads), _normal(rows, n)
        activation = "gelu" if whole and out > n else "identity"
        residual = _normal(rows, out) if whole else None
        flops = 2.0 * rows * out * n
        return Job(
            lambda s: _ext.linear_seconds(x, weight, activation, residual, not whole, machine.threads, s),
            work=flops / 1e9,
            cost=flops,
        )

    return Case(
        group="gemm",
        name=f"{what}, {rows} rows",
        shape=f"{n} → {out}",
        dtype=dtype,
        unit="GFLOP/s" if dtype in ("float32", "bfloat16") else "GOP/s",
        of=arithmetic(dtype),
        goal=goal,
        make=make,
    )


def decode(machine: Machine, dtype: str) -> Iterator[Case]:
    """One row: a weight so large that it comes from memory."""
    n = 4096
    out = int(machine.stream_bytes * 8 / _BITS[dtype] / n) // 1024 * 1024

    def make() -> Job:
        weight, x = packed(dtype, out, n, False, machine.threads), _normal(1, n)
        return Job(
            lambda s: _ext.linear_seconds(x, weight, "identity", None, False, machine.threads, s),
            work=weight.nbytes / 1e9,
            cost=weight.nbytes,
        )

    yield Case(
        group="decode",
        name="linear, one row",
        shape=f"{n} → {out}",
        dtype=dtype,
        unit="GB/s",
        of="memory",
        goal=0.85 if dtype == "int4" else 0.92,
        make=make,
    )


@functools.lru_cache(maxsize=1)  # cases that share a weight follow each other
def packed(dtype: str, out: int, n: int, bias: bool, threads: int) -> _ext.Weight:
    """A random weight as models hold it. Large ones repeat a block of rows."""
    weight = _ext.Weight(out, n, dtype, "panels")
    block = _normal(min(out, 1024), n) / np.float32(n**0.5)
    for at in range(0, out, len(block)):
        weight.fill(block[: out - at], at, 0, threads)
    if bias:
        weight.fill_bias(_normal(out), 0, 0)
    return weight


def attention(machine: Machine) -> Iterator[Case]:
    """12 heads of 64: prompts, with and without the causal mask, and one token over a cache."""
    for kv_type in ("float32", "bfloat16"):
        for causal in (False, True):
            for tokens in (128, 512) if machine.quick else (128, 256, 512, 1024, 2048):
                yield _prefill_case(machine, tokens, causal, kv_type)
    for kv_type in ("float32", "bfloat16", "int8"):
        yield _decode_case(machine, kv_type)


def _prefill_case(machine: Machine, tokens: int, causal: bool, kv_type: str) -> Case:
    def make() -> Job:
        q, k, v = (_normal(1, tokens, HEADS, HEAD_DIM) for _ in range(3))
        flops = 4.0 * WIDTH * (tokens * (tokens + 1) / 2 if causal else tokens * tokens)
        return Job(
            timer(lambda: _ext.attention(q, k, v, None, causal, HEAD_DIM**-0.5, machine.threads, kv_type=kv_type)),
            work=flops / 1e9,
            cost=flops,
        )

    return Case(
        group="attention",
        name=f"prompt, {'causal' if causal else 'both ways'}",
        shape=f"{tokens} tokens",
        dtype=kv_type,
        unit="GFLOP/s",
        of=kv_type,
        goal=0.60,
        make=make,
    )


def _decode_case(machine: Machine, kv_type: str) -> Case:
    def make() -> Job:
        """A program of nothing but attention steps, over a cache of so many layers that it comes from memory."""
        per_layer = _ext.page_nbytes(1, HEADS, HEAD_DIM, kv_type) * (CACHED // _ext.page_tokens)
        layers = -(-machine.stream_bytes // per_layer)
        program, table = _ext.Program(), _ext.Weight(64, 3 * WIDTH, "float32", "rows")
        table.fill(_normal(64, 3 * WIDTH), 0, 0, machine.threads)
        x, y = program.buffer(3 * WIDTH, "tokens"), program.buffer(WIDTH, "tokens")
        program.embed(x, table, 1.0, None, 0, None)
        q, k, v = ((x, part * WIDTH, WIDTH) for part in range(3))
        shape = _ext.AttentionShape(HEADS, HEADS, HEAD_DIM, HEAD_DIM**-0.5, True, kv_type=kv_type)
        for layer in range(layers):
            program.attention(y, q, k, v, -1, layer, shape)
        program.output("y", y)
        cache = _ext.KVCache(layers, HEADS, HEAD_DIM, kv_type, layers * per_layer)
        pages = [cache.allocate() for _ in range(CACHED // _ext.page_tokens)]
        for page in pages:  # each is filled as if it were the first: what the keys say does not matter
            program.run(["y"], _batch(np.arange(_ext.page_tokens), 0, cache, [page]), machine.threads)
        batch = _batch(np.zeros(1), CACHED - 1, cache, pages)
        return Job(
            timer(lambda: program.run(["y"], batch, machine.threads)),
            work=layers * per_layer / 1e9,
            cost=layers * per_layer,
        )

    return Case(
        group="attention",
        name="one token",
        shape=f"{CACHED} cached",
        dtype=kv_type,
        unit="GB/s",
        of="memory",
        goal=0.80,
        make=make,
    )


def _batch(ids: npt.NDArray[np.generic], past: int, cache: _ext.KVCache, pages: list[int]) -> _ext.Batch:
    return _ext.Batch(
        token_ids=ids.astype(np.int32),
        cu_seqlens=[0, len(ids)],
        type_ids=np.empty(0, np.int32),
        wanted=np.empty(0, np.int64),
        past=[past],
        cache=cache,
        pages=[pages],
    )


def _normal(*shape: int) -> _Float32:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)
