"""Scopes over the tensor names of a checkpoint: what model files read their weights from."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from qkv.checkpoint.tensors import DTYPES, TensorInfo
from qkv.errors import CheckpointError

# What TensorFlow calls the parameters of a norm; BERT's first checkpoints still have these names.
_OLD_NAMES = {"weight": "gamma", "bias": "beta"}


class TensorSource(Protocol):
    """What holds the tensors: a `Checkpoint`, or the plan of one (`qkv.planning`)."""

    @property
    def path(self) -> Path: ...
    @property
    def config(self) -> dict[str, Any]: ...
    @property
    def tensors(self) -> Mapping[str, TensorInfo]: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def used(self) -> set[str]: ...  # names that `Weights.param` gave out
    def read(self, name: str) -> np.ndarray: ...
    def release(self, name: str) -> None: ...


@dataclass(frozen=True)
class Param:
    """A tensor of a checkpoint whose shape and type have been checked. Nothing is read until :meth:`read`.

    Attributes:
        name: its full name in the checkpoint; that of a slice ends with ``[index]``.
        shape: its shape.
        dtype: ``float32``, ``float16`` or ``bfloat16``.
        whole: the tensor of which this is the slice `index`, if it is one.
    """

    checkpoint: TensorSource = field(repr=False)
    name: str
    shape: tuple[int, ...]
    dtype: str
    whole: Param | None = None
    index: int = 0

    def at(self, index: int) -> Param:
        """A slice of the first axis."""
        return replace(self, name=f"{self.name}[{index}]", shape=self.shape[1:], whole=self, index=index)

    def read(self) -> np.ndarray:
        """The values, as :meth:`Checkpoint.read` gives them: bfloat16 as the raw bits in a uint16 array."""
        return self.whole.read()[self.index] if self.whole else self.checkpoint.read(self.name)

    def release(self) -> None:
        """Give the memory of its pages back, after its values were packed; a slice gives back those of the tensor."""
        if self.whole:
            self.whole.release()
        else:
            self.checkpoint.release(self.name)


@dataclass(frozen=True)
class Weights:
    """The tensors whose names begin with a prefix.

    ``w["encoder.layer.0"]`` is the scope below, ``"lm_head" in w`` tells whether it holds any tensor, and
    ``w["lm_head"].param("weight", shape)`` is a tensor.
    """

    checkpoint: TensorSource = field(repr=False)
    prefix: str = ""

    def unwrapped(self) -> Weights:
        """This scope, or the one below it where all names begin with what a wrapper puts before them: `module.` and
        `_orig_mod.` (PyTorch's data parallelism and compiler), `auto_model.` (sentence-transformers), `model.model.`.
        """
        scope = self
        while name := scope._wrapper():
            scope = scope[name]
        return scope

    def _wrapper(self) -> str | None:
        """The first part of every name of this scope, if a wrapper put it there."""
        below = f"{self.prefix}." if self.prefix else ""
        names = [name.removeprefix(below) for name in self.checkpoint.names if name.startswith(below)]
        first = {name.partition(".")[0] for name in names}
        wrappers = {"module", "_orig_mod", "auto_model"}
        if any(name.startswith("model.model.") for name in names):  # one `model.` belongs to the architecture
            wrappers.add("model")
        return first.pop() if len(first) == 1 and first <= wrappers else None

    def under(self, *prefixes: str) -> Weights:
        """The scope of the first of `prefixes` that holds any tensor; ``""`` is this scope itself.

        Base models and models with a head name the same tensors with and without a prefix.

        Raises:
            CheckpointError: none of them holds any.
        """
        for prefix in prefixes:
            name = prefix.removesuffix(".")
            if name in self:
                return self[name]
        raise CheckpointError(
            f"{self.checkpoint.path} has no tensor under {' or '.join(map(repr, prefixes))}; "
            f"its first ones are {', '.join(self.checkpoint.names[:3]) or '(none at all)'}"
        )

    def __getitem__(self, name: str) -> Weights:
        return replace(self, prefix=self._join(name))

    def __contains__(self, name: str) -> bool:
        full, names = self._join(name), self.checkpoint.names
        if full in self.checkpoint.tensors:
            return True
        below = f"{full}." if full else ""
        at = bisect_left(names, below)
        return at < len(names) and names[at].startswith(below)

    def layers(self, name: str, count: int) -> Iterator[Weights]:
        """The scopes ``name.0``, ``name.1``, … of `count` layers."""
        return (self[f"{name}.{i}"] for i in range(count))

    def param(self, leaf: str, shape: tuple[int, ...]) -> Param:
        """The tensor `leaf` of this scope, which must have the given shape and a floating-point type.

        Raises:
            CheckpointError: there is no such tensor (the message names the nearest ones), or its shape or
                type is another.
        """
        name = self._tensor_name(leaf)
        info = self.checkpoint.tensors.get(name)
        if info is None:
            near = get_close_matches(name, self.checkpoint.names, n=3)
            hint = f"; the nearest are {', '.join(near)}" if near else ""
            raise CheckpointError(f"{self.checkpoint.path} has no tensor {name!r}{hint}")
        if info.dtype not in DTYPES.values():
            raise CheckpointError(_wrong_dtype(info))
        if info.shape != tuple(shape):
            raise CheckpointError(
                f"tensor {name!r}: expected shape {list(shape)} from config.json, "
                f"found {list(info.shape)} in {info.file}"
            )
        self.checkpoint.used.add(name)
        return Param(self.checkpoint, name, info.shape, info.dtype)

    def _tensor_name(self, leaf: str) -> str:
        name, old = self._join(leaf), self._join(_OLD_NAMES.get(leaf, leaf))
        return old if name not in self.checkpoint.tensors and old in self.checkpoint.tensors else name

    def _join(self, name: str) -> str:
        return f"{self.prefix}.{name}" if self.prefix and name else self.prefix or name


def _wrong_dtype(info: TensorInfo) -> str:
    expected = ", ".join(DTYPES.values())
    message = f"{info.file}: tensor {info.name!r} has type {info.dtype}; expected {expected}"
    if info.dtype in ("F64", "C64"):
        return message
    return f"{message}. Quantised checkpoints (GPTQ, AWQ, bitsandbytes, float8, ...) are not supported"
