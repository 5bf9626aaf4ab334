"""The experts step alone: against float64, its bits, and what it refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tests.kernels.reference import ACTIVATIONS, assert_same_bits, bfloat16_bits, normal, pack, widen

import qkv
from qkv import _ext

DTYPES = ("float32", "bfloat16", "int8", "int4")


class Mixture:
    """Random experts as a program: the token table is x, the router a layer of it."""

    def __init__(self, *, hidden: int, inner: int, experts: int, top_k: int, tokens: int = 40, residual: bool = True):
        self.x = normal(0, tokens, hidden)
        self.router = normal(1, experts, hidden)
        self.gate, self.up = normal(2, 2, experts, inner, hidden)
        self.down = normal(3, experts, hidden, inner)
        self.top_k, self.residual = top_k, residual

    def program(self, dtype: str = "float32", activation: str = "silu") -> _ext.Program:
        experts, _, hidden = self.gate.shape
        p = _ext.Program()
        x, logits, y = p.buffer(hidden, "tokens"), p.buffer(experts, "tokens"), p.buffer(hidden, "tokens")
        table = _ext.Weight(len(self.x), hidden, "float32", "rows")
        table.fill(self.x, 0, 0, 1)
        p.embed(x, table, 1.0, None, 0, None)
        p.linear(logits, x, pack(self.router), "identity", -1)
        converted = x
        if (kind := _ext.activations_of(dtype)) != "float32":
            converted = p.buffer(hidden, "tokens", kind)
            p.convert(converted, x)
        gate_up = [pack(up, dtype, gate=gate) for gate, up in zip(self.gate, self.up, strict=True)]
        down = [pack(rows, dtype) for rows in self.down]
        p.experts(y, converted, logits, gate_up, down, activation, self.top_k, x if self.residual else -1)
        p.output("y", y)
        return p

    def expected(self, activation: str = "silu") -> np.ndarray:
        x, gate, up, down = (a.astype(float) for a in (self.x, self.gate, self.up, self.down))
        logits = x @ self.router.astype(float).T
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p[p < np.sort(p, axis=1)[:, [-self.top_k]]] = 0
        p /= p.sum(axis=1, keepdims=True)
        f = ACTIVATIONS[activation]
        every = np.stack([(f(x @ g.T) * (x @ u.T)) @ d.T for g, u, d in zip(gate, up, down, strict=True)])
        return x * self.residual + np.einsum("te,eth->th", p, every)


def run(program: _ext.Program, ids: np.ndarray, threads: int = 1) -> np.ndarray:
    empty = np.empty(0, np.int64)
    batch = _ext.Batch(ids.astype(np.int32), np.array([0, len(ids)]), np.empty(0, np.int32), empty, empty)
    return program.run(["y"], batch, threads)[0]


def error(y: np.ndarray, expected: np.ndarray) -> float:
    """Relative, of the whole."""
    return float(np.linalg.norm(y - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("experts", "top_k"), [(1, 1), (5, 1), (5, 2), (5, 5), (33, 8)])
@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_equals_float64(isa, experts, top_k, activation):
    for hidden, inner in ((1, 3), (17, 33), (40, 24)):
        for residual in (False, True):
            mixture = Mixture(hidden=hidden, inner=inner, experts=experts, top_k=top_k, residual=residual)
            y = run(mixture.program(activation=activation), np.arange(len(mixture.x)))
            assert error(y, mixture.expected(activation)) <= 1e-6


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.01), ("int8", 0.03), ("int4", 0.25)])
def test_weight_types(isa, dtype, most):
    mixture = Mixture(hidden=80, inner=70, experts=6, top_k=2, residual=False)
    y = run(mixture.program(dtype), np.arange(len(mixture.x)))
    assert 1e-4 < error(y, mixture.expected()) <= most


def test_bfloat16_weights_are_only_rounded(isa):
    if _ext.activations_of("bfloat16") != "float32":
        pytest.skip("activations are rounded too")
    mixture = Mixture(hidden=40, inner=24, experts=4, top_k=2)
    program = mixture.program("bfloat16")
    mixture.gate, mixture.up, mixture.down = (widen(bfloat16_bits(w)) for w in (mixture.gate, mixture.up, mixture.down))
    assert error(run(program, np.arange(40)), mixture.expected()) <= 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_depend_on_no_other_token_and_on_no_thread(isa, dtype):
    mixture = Mixture(hidden=72, inner=130, experts=5, top_k=2, tokens=70)
    program = mixture.program(dtype)
    together = run(program, np.arange(70))
    for threads in (2, 3):
        assert_same_bits(run(program, np.arange(70), threads), together)
    for first, end in ((0, 1), (1, 8), (8, 70)):
        assert_same_bits(run(program, np.arange(first, end), 2), together[first:end])
    order = np.random.default_rng(0).permutation(70)
    assert_same_bits(run(program, order), together[order])


def test_of_equally_likely_experts_the_first_are_taken():
    mixture = Mixture(hidden=16, inner=16, experts=6, top_k=2, residual=False)
    mixture.router[:] = 0
    y = run(mixture.program(), np.arange(40))
    mixture.top_k, mixture.router = 2, mixture.router[:2]
    mixture.gate, mixture.up, mixture.down = mixture.gate[:2], mixture.up[:2], mixture.down[:2]
    assert error(y, mixture.expected()) <= 1e-6


def test_nan_stays_with_its_token(isa):
    mixture = Mixture(hidden=24, inner=20, experts=5, top_k=2)
    before = run(mixture.program(), np.arange(40))
    mixture.x[7, 3] = np.nan
    after = run(mixture.program(), np.arange(40))
    assert np.isnan(after[7]).all()
    assert_same_bits(np.delete(after, 7, axis=0), np.delete(before, 7, axis=0))


def test_large_logits():
    """The likeliest expert takes all; nothing overflows."""
    mixture = Mixture(hidden=24, inner=20, experts=5, top_k=2)
    mixture.router *= 1000
    assert error(run(mixture.program(), np.arange(40)), mixture.expected()) <= 1e-6


def test_a_model_adds_to_its_residual_in_the_step(tiny):
    text = str(qkv.load(tiny("mixtral")).program)
    assert len(re.findall(r"experts\(%\d+, 2 of 5 by %\d+, .*\) \+ %", text)) == 2


def test_text():
    text = str(Mixture(hidden=8, inner=6, experts=4, top_k=2).program("int8"))
    assert "= experts(%3, 2 of 4 by %1, int8[12, 8], silu, gated, int8[8, 6]) + %0  -> y" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 0}, "0 of 2 can't be chosen"),
        ({"top_k": 3}, "3 of 2 can't be chosen"),
        ({"down": 1}, "2 gates and ups, 1 downs"),
        ({"gate_up": "panels"}, "weights of expert 0 do not fit"),
        ({"down_in": 5}, "weights of expert 0 do not fit"),
        ({"hidden": 7}, "8 wide, not 7"),
        ({"router": 3}, "3 wide, not 2"),
        ({"out": "x"}, "write over their input"),
        ({"residual": "sequences"}, "rows of different kinds"),
    ],
)
def test_what_does_not_fit_is_an_error(change, message):
    hidden, inner = change.get("hidden", 8), 6
    p = _ext.Program()
    x, y = p.buffer(8, "tokens"), p.buffer(8, "tokens")
    router = p.buffer(change.get("router", 2), "tokens")
    residual = p.buffer(8, change["residual"]) if "residual" in change else -1
    gate_up = [_ext.Weight(2 * inner, hidden, "float32", change.get("gate_up", "gated")) for _ in range(2)]
    down = [_ext.Weight(8, change.get("down_in", inner), "float32", "panels") for _ in range(change.get("down", 2))]
    with pytest.raises(ValueError, match=message):
        p.experts(x if "out" in change else y, x, router, gate_up, down, "silu", change.get("top_k", 2), residual)
