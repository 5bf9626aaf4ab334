"""All cases of a run, in order."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from qkv.bench import kernels, models, rows
from qkv.bench.timing import Case, Machine
from qkv.loading import DTYPES as _LOADABLE

GROUPS = ("gemm", "decode", "attention", "norms", "end-to-end")
DTYPES = tuple(dtype for dtype in _LOADABLE if dtype != "auto")
CEILINGS = (*dict.fromkeys(kernels.arithmetic(dtype) for dtype in DTYPES), "memory")


def plan(machine: Machine, groups: Collection[str] = GROUPS, dtypes: Collection[str] = DTYPES) -> Iterator[Case]:
    """The cases of some groups and weight types. Attention and norms do not depend on the weights."""
    for dtype in dtypes:
        if "gemm" in groups:
            yield from kernels.gemm(machine, dtype)
        if "decode" in groups:
            yield from kernels.decode(machine, dtype)
        if "end-to-end" in groups:
            yield from models.end_to_end(machine, dtype)
    if "attention" in groups:
        yield from kernels.attention(machine)
    if "norms" in groups:
        yield from rows.norms(machine)
