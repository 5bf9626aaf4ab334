"""Lowering: a fused graph becomes a program, tensors become numbered buffers. A buffer is free again after its last
reader, so a deep model needs only a handful."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qkv import _ext
from qkv.errors import Error
from qkv.graph import tensor as ops
from qkv.graph.build import Graph
from qkv.graph.fuse import convert_inputs, fuse
from qkv.graph.pack import Packer
from qkv.graph.tensor import Tensor


@dataclass(frozen=True)
class CacheShape:
    """Keys and values that each position needs, and what they are kept as: float32, bfloat16 or int8."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str


@dataclass(frozen=True)
class Lowered:
    program: _ext.Program
    cache: CacheShape | None  # None: attention looks both ways, so nothing can be cached
    kv_dtype: str  # of keys and values, cached or not


class Buffers:
    """Hands out the program's buffers and takes them back."""

    def __init__(self, program: _ext.Program, nodes: list[Tensor]) -> None:
        self._program = program
        self._free: dict[tuple[int, str, str], list[int]] = {}
        self._number: dict[Tensor, int] = {}
        # norm -> what it is converted to; the norm writes both
        self.converted = {
            node.inputs[0]: node
            for node in nodes
            if isinstance(node.op, ops.Convert) and isinstance(node.inputs[0].op, ops.Norm)
        }
        self._last_use = {base(x): i for i, node in enumerate(nodes) for x in node.inputs}

    def __getitem__(self, x: Tensor) -> int:
        return self._number[base(x)]

    def make(self, x: Tensor) -> int:
        free = self._free.setdefault((x.width, x.rows, x.dtype), [])
        self._number[x] = free.pop() if free else self._program.buffer(x.width, x.rows, x.dtype)
        return self._number[x]

    def view(self, x: Tensor) -> tuple[int, int, int]:
        """(buffer, first column, width)"""
        start = x.op.start if isinstance(x.op, ops.Slice) else 0
        return self[x], start, x.width

    def free_after(self, index: int, node: Tensor) -> None:
        # a dict keeps them in order: the same graph gives the same program
        for x in dict.fromkeys(base(i) for i in node.inputs):
            if self._last_use[x] == index:
                self._free[x.width, x.rows, x.dtype].append(self._number[x])


def base(x: Tensor) -> Tensor:
    """The tensor that x is a slice of, or x itself."""
    return x.inputs[0] if isinstance(x.op, ops.Slice) else x


def lower(graph: Graph, packer: Packer, kv_dtype: str = "auto", program: _ext.Program | None = None) -> Lowered:
    """Fuses the graph, packs its weights and builds the program.

    kv_dtype: of keys and values: float32, bfloat16, int8, or "auto", which is bfloat16 for a model that can cache them
    and whose weights are narrower than float32, and float32 for any other. A run without a cache rounds them as one
    with a cache does.

    program: what the steps are added to; an empty one by default.

    Raises:
        qkv.Error: the graph holds an operation that neither a fusion nor a step covers.
    """
    fuse(graph.outputs.values())
    nodes = convert_inputs(graph.outputs.values(), packer.activations)
    _pack_tied_first(nodes, packer)
    if kv_dtype == "auto":
        kv_dtype = "bfloat16" if packer.dtype != "float32" and _cacheable(nodes) else "float32"
    program = program or _ext.Program()
    buffers = Buffers(program, nodes)
    for index, node in enumerate(nodes):
        if not isinstance(node.op, ops.Slice):
            _add_step(program, buffers, packer, node, kv_dtype)
        for name, x in graph.outputs.items():
            if x is node:
                program.output(name, buffers[x])
        buffers.free_after(index, node)
    return Lowered(program, _cache_shape(nodes, kv_dtype), kv_dtype)


def _pack_tied_first(nodes: list[Tensor], packer: Packer) -> None:
    """A table that is also a layer's weight is packed as that weight, before it is looked up in."""
    tables = {node.op.tokens for node in nodes if isinstance(node.op, ops.Embed)}
    for node in nodes:
        if isinstance(node.op, ops.Linear) and node.op.parts[0].weight in tables:
            packer.matrix(node.op)


def _add_step(program: _ext.Program, buffers: Buffers, packer: Packer, node: Tensor, kv_dtype: str) -> None:
    inputs = node.inputs
    match node.op:
        case ops.Embed() as op:
            positions = packer.small_table(op.positions) if op.positions else None
            types = packer.small_table(op.types) if op.types else None
            program.embed(buffers.make(node), packer.table(op.tokens), positions, op.position_offset, types)
        case ops.Rotary() as op:
            program.rotary(buffers.make(node), op.inverse_frequencies)
        case ops.Norm() as op:
            weight, bias = packer.vector(op.weight), packer.vector(op.bias) if op.bias else []
            also = buffers.make(buffers.converted[node]) if node in buffers.converted else -1
            program.norm(buffers.make(node), buffers[inputs[0]], weight, bias, op.eps, op.centred, also)
        case ops.Linear() as op:
            residual = buffers[inputs[1]] if len(inputs) == 2 else -1
            weight_ = packer.matrix(op)
            program.linear(buffers.make(node), buffers[inputs[0]], weight_, op.activation, residual)
        case ops.Convert():
            if inputs[0] not in buffers.converted:
                program.convert(buffers.make(node), buffers[inputs[0]])
        case ops.Attention() as op:
            q, k, v = (buffers.view(x) for x in inputs[:3])
            rotary = buffers[inputs[3]] if len(inputs) == 4 else -1
            shape = _attention_shape(op, packer, kv_dtype)
            program.attention(buffers.make(node), q, k, v, rotary, op.layer, shape)
        case ops.Gather():
            program.gather(buffers.make(node), buffers[inputs[0]])
        case ops.Pool() as op:
            program.pool(buffers.make(node), buffers[inputs[0]], op.pooling)
        case op:
            raise Error(f"graph: {op} stands where no linear layer can absorb it, and there is no step for it alone")


def _attention_shape(op: ops.Attention, packer: Packer, kv_dtype: str) -> _ext.AttentionShape:
    return _ext.AttentionShape(
        op.heads,
        op.kv_heads,
        op.head_dim,
        op.scale,
        op.causal,
        window=op.window or 0,
        soft_cap=op.soft_cap or 0.0,
        slopes=None if op.alibi_slopes is None else np.array(op.alibi_slopes, np.float32),
        relative_bias=None if op.relative_bias is None else packer.relative_bias(op.relative_bias),
        kv_type=kv_dtype,
    )


def _attentions(nodes: list[Tensor]) -> list[ops.Attention]:
    return [node.op for node in nodes if isinstance(node.op, ops.Attention)]


def _cacheable(nodes: list[Tensor]) -> bool:
    attentions = _attentions(nodes)
    return bool(attentions) and all(op.causal for op in attentions)


def _cache_shape(nodes: list[Tensor], kv_dtype: str) -> CacheShape | None:
    if not _cacheable(nodes):
        return None
    attentions = _attentions(nodes)
    shapes = {(op.kv_heads, op.head_dim) for op in attentions}
    if len(shapes) != 1:
        raise Error(f"graph: layers differ in (key/value heads, head_dim): {sorted(shapes)}; one cache can't hold them")
    return CacheShape(len(attentions), *shapes.pop(), kv_dtype)
