"""Lowering: a fused graph becomes a program, tensors become numbered buffers. A buffer is free again after its last
reader, so a deep model needs only a handful."""

from __future__ import annotations

from dataclasses import dataclass

from qkv import _ext
from qkv.errors import Error
from qkv.graph import tensor as ops
from qkv.graph.build import Graph
from qkv.graph.fuse import convert_inputs, fuse
from qkv.graph.pack import Packer
from qkv.graph.tensor import Tensor


@dataclass(frozen=True)
class CacheShape:
    """Keys and values that each position needs."""

    layers: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Lowered:
    program: _ext.Program
    cache: CacheShape | None  # None: attention looks both ways, so nothing can be cached


class Buffers:
    """Hands out the program's buffers and takes them back."""

    def __init__(self, program: _ext.Program, nodes: list[Tensor]) -> None:
        self._program = program
        self._free: dict[tuple[int, str, str], list[int]] = {}
        self._number: dict[Tensor, int] = {}
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


def lower(graph: Graph, packer: Packer) -> Lowered:
    """Fuses the graph, packs its weights and builds the program.

    Raises:
        qkv.Error: the graph holds an operation that neither a fusion nor a step covers.
    """
    fuse(graph.outputs.values())
    nodes = convert_inputs(graph.outputs.values(), packer.activations)
    _pack_tied_first(nodes, packer)
    program = _ext.Program()
    buffers = Buffers(program, nodes)
    for index, node in enumerate(nodes):
        if not isinstance(node.op, ops.Slice):
            _add_step(program, buffers, packer, node)
        for name, x in graph.outputs.items():
            if x is node:
                program.output(name, buffers[x])
        buffers.free_after(index, node)
    return Lowered(program, _cache_shape(nodes))


def _pack_tied_first(nodes: list[Tensor], packer: Packer) -> None:
    """A table that is also a layer's weight is packed as that weight, before it is looked up in."""
    tables = {node.op.tokens for node in nodes if isinstance(node.op, ops.Embed)}
    for node in nodes:
        if isinstance(node.op, ops.Linear) and node.op.parts[0].weight in tables:
            packer.matrix(node.op)


def _add_step(program: _ext.Program, buffers: Buffers, packer: Packer, node: Tensor) -> None:
    inputs = node.inputs
    match node.op:
        case ops.Embed() as op:
            positions = packer.table(op.positions) if op.positions else None
            types = packer.table(op.types) if op.types else None
            program.embed(buffers.make(node), packer.table(op.tokens), positions, op.position_offset, types)
        case ops.Rotary() as op:
            program.rotary(buffers.make(node), op.inverse_frequencies)
        case ops.Norm() as op:
            weight, bias = packer.vector(op.weight), packer.vector(op.bias) if op.bias else []
            program.norm(buffers.make(node), buffers[inputs[0]], weight, bias, op.eps, op.centred)
        case ops.Linear() as op:
            residual = buffers[inputs[1]] if len(inputs) == 2 else -1
            weight_ = packer.matrix(op)
            program.linear(buffers.make(node), buffers[inputs[0]], weight_, op.activation, residual)
        case ops.Convert():
            program.convert(buffers.make(node), buffers[inputs[0]])
        case ops.Attention() as op:
            q, k, v = (buffers.view(x) for x in inputs[:3])
            rotary = buffers[inputs[3]] if len(inputs) == 4 else -1
            program.attention(
                buffers.make(node),
                q,
                k,
                v,
                op.heads,
                op.kv_heads,
                op.head_dim,
                op.scale,
                op.causal,
                rotary,
                op.layer,
            )
        case ops.Gather():
            program.gather(buffers.make(node), buffers[inputs[0]])
        case ops.Pool() as op:
            program.pool(buffers.make(node), buffers[inputs[0]], op.pooling)
        case op:
            raise Error(f"graph: {op} stands where no linear layer can absorb it, and there is no step for it alone")


def _cache_shape(nodes: list[Tensor]) -> CacheShape | None:
    attentions = [node.op for node in nodes if isinstance(node.op, ops.Attention)]
    if not attentions or not all(op.causal for op in attentions):
        return None
    shapes = {(op.kv_heads, op.head_dim) for op in attentions}
    if len(shapes) != 1:
        raise Error(f"graph: layers differ in (key/value heads, head_dim): {sorted(shapes)}; one cache can't hold them")
    return CacheShape(len(attentions), *shapes.pop())
