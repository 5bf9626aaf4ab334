"""Fusions: fewer, larger steps with the same result. Each rule looks at one node and rewrites it in place; what it
absorbed has no users left and is dropped.

    activate(linear(x))           -> linear with activation
    activate(linear(x)) * linear(x) -> one gated linear (GLU, Shazeer 2020)
    linear(x) + y                 -> linear with residual; experts(x) + y likewise
    attention(linear(x), linear(x), linear(x)) -> slices of one linear; also where a norm of heads stands between

and, once the types of the weights are known,

    linear(x)                     -> linear(convert(x)), once for all linear layers that read x
    convert(norm(x))              -> norm with a converted result, if nobody reads the other; else it writes both
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

from qkv.graph.tensor import Activate, Add, Attention, Convert, DType, Experts, Linear, Multiply, Norm, Slice, Tensor


def in_order(outputs: Iterable[Tensor]) -> list[Tensor]:
    """Every tensor the outputs need, inputs before users."""
    ordered: dict[Tensor, None] = {}

    def visit(x: Tensor) -> None:
        stack = [(x, False)]
        while stack:  # no recursion: deep models would reach Python's limit
            node, ready = stack.pop()
            if node in ordered:
                continue
            if ready:
                ordered[node] = None
            else:
                stack.append((node, True))
                stack.extend((i, False) for i in reversed(node.inputs))

    for output in outputs:
        visit(output)
    return list(ordered)


def fuse(outputs: Iterable[Tensor]) -> list[Tensor]:
    """Applies the rules until none fits; returns the tensors in order."""
    outputs = list(outputs)
    rules = (_fuse_activation, _fuse_gate, _fuse_residual, _merge_projections)
    for rule in rules:
        nodes = in_order(outputs)
        users = Counter(i for node in nodes for i in node.inputs) + Counter(outputs)
        for node in nodes:
            rule(node, users)
    return in_order(outputs)


def _is_linear(x: Tensor, users: Counter[Tensor]) -> bool:
    """A linear layer that nothing was added to yet and that has one user, so it may be absorbed."""
    return isinstance(x.op, Linear) and len(x.inputs) == 1 and users[x] == 1


def _fuse_activation(node: Tensor, users: Counter[Tensor]) -> None:
    if not isinstance(node.op, Activate) or not _is_linear(x := node.inputs[0], users):
        return
    assert isinstance(x.op, Linear)
    if x.op.activation == "identity" and node.op == Activate(node.op.function) and node.op.function != "sigmoid":
        node.op, node.inputs = replace(x.op, activation=node.op.function), x.inputs


def _fuse_gate(node: Tensor, users: Counter[Tensor]) -> None:
    if not isinstance(node.op, Multiply) or not all(_is_linear(x, users) for x in node.inputs):
        return
    # the gate is the side with an activation
    up, gate = sorted(node.inputs, key=lambda x: isinstance(x.op, Linear) and x.op.activation != "identity")
    assert isinstance(gate.op, Linear)
    assert isinstance(up.op, Linear)
    one_part_each = len(gate.op.parts) == len(up.op.parts) == 1
    if gate.inputs == up.inputs and up.op.activation == "identity" and one_part_each:
        node.op = Linear(gate.op.parts + up.op.parts, gate.op.activation, gated=True)
        node.inputs = gate.inputs


def _fuse_residual(node: Tensor, users: Counter[Tensor]) -> None:
    if not isinstance(node.op, Add):
        return
    for linear, other in (node.inputs, node.inputs[::-1]):
        experts = isinstance(linear.op, Experts) and len(linear.inputs) == 2 and users[linear] == 1
        if experts or _is_linear(linear, users):
            node.op, node.inputs = linear.op, (*linear.inputs, other)
            return


def _merge_projections(node: Tensor, users: Counter[Tensor]) -> None:
    if not isinstance(node.op, Attention):
        return
    by_input: dict[Tensor, list[Tensor]] = {}
    for x in node.inputs[:3]:
        linear = x.inputs[0] if isinstance(x.op, Norm) and users[x] == 1 else x
        if _is_linear(linear, users) and isinstance(linear.op, Linear) and linear.op.activation == "identity":
            by_input.setdefault(linear.inputs[0], []).append(linear)
    for source, linears in by_input.items():
        if len(linears) > 1:
            _merge(source, linears)


def _merge(source: Tensor, linears: list[Tensor]) -> None:
    """Makes slices of one linear layer of them."""
    parts = tuple(part for x in linears if isinstance(x.op, Linear) for part in x.op.parts)
    merged = Tensor(Linear(parts), (source,), sum(x.width for x in linears), source.rows)
    start = 0
    for x in linears:
        x.op, x.inputs = Slice(start), (merged,)
        start += x.width


def convert_inputs(outputs: Iterable[Tensor], activations: Callable[[Linear], DType]) -> list[Tensor]:
    """Gives linear layers and experts their input in the type that their kernel reads; returns the tensors in order."""
    outputs = list(outputs)
    converted: dict[tuple[Tensor, DType], Tensor] = {}
    for node in in_order(outputs):
        layer = node.op.gate_up[0] if isinstance(node.op, Experts) else node.op
        if not isinstance(layer, Linear) or (dtype := activations(layer)) == "float32":
            continue
        x, *others = node.inputs
        new = converted.setdefault((x, dtype), Tensor(Convert(), (x,), x.width, x.rows, dtype))
        node.inputs = (new, *others)
    nodes = in_order(outputs)
    users = Counter(i for node in nodes for i in node.inputs) + Counter(outputs)
    for new in converted.values():
        (x,) = new.inputs
        if isinstance(x.op, Norm) and users[x] == 1 and x.op.weight.shape == (x.width,):
            new.op, new.inputs = x.op, x.inputs
    return in_order(outputs)
