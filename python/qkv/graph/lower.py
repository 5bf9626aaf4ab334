"""Lowering: a fused graph becomes a program, tensors become numbered buffers. A buffer is free again after its last
reader, so a deep model needs only a handful."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qkv import _ext
from qkv.errors import Error
from qkv.graph import tensor as ops
from qkv.graph.build import Graph
from qkv.graph.fuse import convert_inputs, fuse
from qkv.graph.pack import Packer
from qkv.graph.rope import Beyond
from qkv.graph.tensor import Tensor


@dataclass(frozen=True)
class CacheShape:
    """Keys and values that each position needs, and what they are kept as: float32, bfloat16 or int8."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str

    @property
    def page_nbytes(self) -> int:
        return _ext.page_nbytes(self.layers, self.kv_heads, self.head_dim, self.dtype)

    def cache(self, pages: int) -> _ext.KVCache:
        """An empty one with room for so many pages."""
        return _ext.KVCache(self.layers, self.kv_heads, self.head_dim, self.dtype, pages * self.page_nbytes)


@dataclass(frozen=True)
class Lowered:
    """
    Attributes:
        program: of the model, or of its decoder.
        encoder: of an encoder that a decoder reads; it stores keys and values for the decoder's cross-attention.
        cache: of the past tokens' keys and values; None where attention looks both ways, so nothing can be cached.
        source_cache: of the encoder's keys and values.
        kv_dtype: of keys and values, cached or not.
    """

    program: _ext.Program
    encoder: _ext.Program | None
    cache: CacheShape | None
    source_cache: CacheShape | None
    kv_dtype: str


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
            if isinstance(node.op, ops.Convert) and _is_norm_of_rows(node.inputs[0])
        }
        self._last_use = {base(x): i for i, node in enumerate(nodes) for x in node.inputs}

    def __getitem__(self, x: Tensor) -> int:
        return self._number[base(x)]

    def make(self, x: Tensor) -> int:
        free = self._free.setdefault((x.width, x.rows, x.dtype), [])
        rows = "tokens" if x.rows == "source" else x.rows  # an encoder's program runs on source tokens
        self._number[x] = free.pop() if free else self._program.buffer(x.width, rows, x.dtype)
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


def _is_norm_of_rows(x: Tensor) -> bool:
    return isinstance(x.op, ops.Norm) and x.op.weight.shape == (x.width,)


def lower(graph: Graph, packer: Packer, kv_dtype: str = "auto") -> Lowered:
    """Fuses the graph, packs its weights and builds its programs: one, or an encoder's and a decoder's.

    kv_dtype: of keys and values: float32, bfloat16, int8, or "auto", which is float32 for float32 weights and bfloat16
    for narrower ones. A run without a cache rounds them as one with a cache does.

    Raises:
        qkv.Error: the graph holds an operation that neither a fusion nor a step covers.
    """
    return assemble(arrange(graph, packer), graph.outputs, packer, kv_dtype)


def arrange(graph: Graph, packer: Packer) -> list[Tensor]:
    """Fuses the graph; returns what becomes steps, in order."""
    stores = _cut_cross_attention(fuse(graph.outputs.values()))
    return convert_inputs([*stores, *graph.outputs.values()], packer.activations)


def assemble(
    nodes: list[Tensor],
    outputs: dict[str, Tensor],
    packer: Packer,
    kv_dtype: str,
    new_program: Callable[[], _ext.Program] = _ext.Program,
) -> Lowered:
    """Packs the weights of `arrange`d nodes and makes their steps; `new_program` makes an empty program."""
    _pack_tied_first(nodes, packer)
    if kv_dtype == "auto":
        kv_dtype = "float32" if packer.dtype == "float32" else "bfloat16"
    source = [node for node in nodes if node.rows == "source"]
    rest = [node for node in nodes if node.rows != "source"]
    return Lowered(
        _filled(new_program(), rest, outputs, packer, kv_dtype),
        _filled(new_program(), source, outputs, packer, kv_dtype) if source else None,
        _cache_shape(_cached_attentions(nodes), kv_dtype),
        _cache_shape([x.op.of for x in nodes if isinstance(x.op, ops.Store)], kv_dtype),
        kv_dtype,
    )


def _cut_cross_attention(nodes: list[Tensor]) -> list[Tensor]:
    """Between an encoder's keys and values and the attention that reads them: the encoder stores them, in the order of
    the decoder's layers, and the decoder finds them there."""
    stores = []
    for node in nodes:
        if isinstance(node.op, ops.Attention) and node.op.cross:
            q, k, v = node.inputs
            stores.append(Tensor(ops.Store(node.op), (k, v), 0, "source"))
            node.inputs = (q,)
    return stores


def _filled(
    program: _ext.Program, nodes: list[Tensor], outputs: dict[str, Tensor], packer: Packer, kv_dtype: str
) -> _ext.Program:
    buffers = Buffers(program, nodes)
    for index, node in enumerate(nodes):
        if not isinstance(node.op, ops.Slice):
            _add_step(program, buffers, packer, node, kv_dtype)
        for name, x in outputs.items():
            if x is node:
                program.output(name, buffers[x])
                if name == "logits" and isinstance(node.op, ops.Linear):
                    program.maxima("logit_maxima")
        buffers.free_after(index, node)
    return program


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
            tokens = packer.table(op.tokens)
            program.embed(buffers.make(node), tokens, op.scale, positions, op.position_offset, types)
        case ops.Rotary() as op:
            rope = op.rope
            beyond = _long_rotary(rope.beyond) if rope.beyond else None
            program.rotary(buffers.make(node), rope.inverse_frequencies, rope.scale, beyond)
        case ops.Norm() as op:
            weight, bias = packer.vector(op.weight, op.shift), packer.vector(op.bias) if op.bias else []
            also = buffers.make(buffers.converted[node]) if node in buffers.converted else -1
            program.norm(buffers.make(node), buffers.view(inputs[0]), weight, bias, op.eps, op.centred, also)
        case ops.Linear() as op:
            residual = buffers[inputs[1]] if len(inputs) == 2 else -1
            weight_ = packer.matrix(op)
            program.linear(buffers.make(node), buffers[inputs[0]], weight_, op.activation, residual)
        case ops.Experts() as op:
            residual = buffers[inputs[2]] if len(inputs) == 3 else -1
            gate_up, down = ([packer.matrix(layer) for layer in layers] for layers in (op.gate_up, op.down))
            x, router = buffers[inputs[0]], buffers[inputs[1]]
            program.experts(buffers.make(node), x, router, gate_up, down, op.gate_up[0].activation, op.top_k, residual)
        case ops.Convert():
            if inputs[0] not in buffers.converted:
                program.convert(buffers.make(node), buffers[inputs[0]])
        case ops.Activate() as op:
            program.map(buffers.make(node), buffers[inputs[0]], op.function, op.before, op.after)
        case ops.Add() | ops.Multiply() as op:
            a, b = (buffers[x] for x in inputs)
            program.combine(buffers.make(node), a, b, "add" if isinstance(op, ops.Add) else "multiply")
        case ops.Attention(cross=True) as op:
            q = buffers.view(inputs[0])
            assert op.layer is not None
            program.cross_attention(buffers.make(node), q, op.layer, _attention_shape(op, packer, kv_dtype))
        case ops.Attention() as op:
            q, k, v = (buffers.view(x) for x in inputs[:3])
            rotary = buffers[inputs[3]] if len(inputs) == 4 else -1
            shape = _attention_shape(op, packer, kv_dtype)
            program.attention(buffers.make(node), q, k, v, rotary, -1 if op.layer is None else op.layer, shape)
        case ops.Store() as op:
            k, v = (buffers.view(x) for x in inputs)
            assert op.of.layer is not None
            program.store(k, v, op.of.layer, _attention_shape(op.of, packer, kv_dtype))
        case ops.Gather():
            program.gather(buffers.make(node), buffers[inputs[0]])
        case ops.Pool() as op:
            program.pool(buffers.make(node), buffers[inputs[0]], op.pooling)


def _long_rotary(rope: Beyond) -> _ext.LongRotary:
    return _ext.LongRotary(rope.length, rope.inverse_frequencies, rope.scale, rope.ntk_factor or 0.0)


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
        rounded_alibi=op.rounded_alibi,
        relative_bias=None if op.relative_bias is None else packer.relative_bias(op.relative_bias),
        interleaved=op.interleaved,
        kv_type=kv_dtype,
    )


def _cached_attentions(nodes: list[Tensor]) -> list[ops.Attention]:
    """Those whose keys and values a later run needs."""
    found = [node.op for node in nodes if isinstance(node.op, ops.Attention)]
    return [op for op in found if op.layer is not None and not op.cross]


def _cache_shape(attentions: list[ops.Attention], kv_dtype: str) -> CacheShape | None:
    if not attentions:
        return None
    shapes = {(op.kv_heads, op.head_dim) for op in attentions}
    if len(shapes) != 1:
        raise Error(f"graph: layers differ in (key/value heads, head_dim): {sorted(shapes)}; one cache can't hold them")
    return CacheShape(len(attentions), *shapes.pop(), kv_dtype)
