"""What the fusion rules absorb, what they must leave alone, and what has no step."""

from __future__ import annotations

import re

import numpy as np
import pytest
from safetensors.numpy import save_file

import qkv
from qkv import _ext
from qkv.checkpoint import Checkpoint, Weights
from qkv.graph import Graph, Tensor, lower
from qkv.graph.pack import Packer

WIDTH = 8


@pytest.fixture
def w(tmp_path) -> Weights:
    rng = np.random.default_rng(0)
    names = ["a.weight", "b.weight", "c.weight", "table.weight"]
    save_file(
        {n: rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) for n in names}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text("{}")
    return Weights(Checkpoint.open(tmp_path))


class Case:
    def __init__(self, w: Weights) -> None:
        self.g, self.w = Graph(), w
        self.x = self.g.embed(w["table"], vocab_size=WIDTH, hidden_size=WIDTH)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return self.g.linear(x, self.w[name], WIDTH, bias=False)

    def steps(self, output: Tensor) -> list[str]:
        self.g.output("hidden_states", output)
        program = lower(self.g, Packer("float32", 1)).program
        return [line.partition(" = ")[2] for line in str(program).splitlines()]


def run(program: _ext.Program) -> np.ndarray:
    """For all tokens of the vocabulary as one sequence."""
    empty = np.empty(0, np.int64)
    batch = _ext.Batch(np.arange(WIDTH), np.array([0, WIDTH]), empty, empty, empty)
    return program.run(["hidden_states"], batch, 1)[0]


def test_residual_on_either_side(w) -> None:
    for flip in (False, True):
        case = Case(w)
        sides = [case.x, case.linear(case.x, "a")]
        steps = case.steps(sides[flip] + sides[not flip])
        assert steps == [
            "embed(token float32[8, 8])", "linear(%0, float32[8, 8]) + %0  -> hidden_states",
        ]  # fmt: skip


def test_gate_on_either_side(w) -> None:
    for flip in (False, True):
        case = Case(w)
        sides = [case.g.activate(case.linear(case.x, "a"), "silu"), case.linear(case.x, "b")]
        steps = case.steps(sides[flip] * sides[not flip])
        assert steps[1:] == ["linear(%0, float32[16, 8], silu, gated)  -> hidden_states"]


def test_two_residuals_in_a_row(w) -> None:
    """GPT-J's parallel layers: x + a(x) + b(x)."""
    case = Case(w)
    steps = case.steps(case.x + case.linear(case.x, "a") + case.linear(case.x, "b"))
    assert [s.count("+ %") for s in steps] == [0, 1, 1]


def test_a_layer_with_two_users_is_not_absorbed(w) -> None:
    """linear(x) is needed for itself: the activation and the sum are steps of their own."""
    case = Case(w)
    h = case.linear(case.x, "a")
    case.g.output("hidden_states", h + case.g.activate(h, "relu"))
    program = lower(case.g, Packer("float32", 1)).program
    assert [line.partition(" = ")[2] for line in str(program).splitlines()[2:]] == [
        "relu(%1)", "%1 + %0  -> hidden_states",
    ]  # fmt: skip
    table, a = (w.checkpoint.read(f"{n}.weight").astype(np.float64) for n in ("table", "a"))
    expected = table @ a.T + np.maximum(table @ a.T, 0)
    assert np.abs(run(program) - expected).max() < 1e-5


def test_projections_of_one_input_are_merged(w) -> None:
    case = Case(w)
    q, k = case.linear(case.x, "a"), case.linear(case.x, "b")
    v = case.linear(case.linear(case.x, "c"), "a")
    steps = case.steps(case.g.attention(q, k, v, head_dim=4, causal=True))
    assert [s for s in steps if "linear" in s] == [
        "linear(%0, float32[16, 8])", "linear(%0, float32[8, 8])", "linear(%2, float32[8, 8])",
    ]  # fmt: skip


def test_fused_results_equal_numpy(w) -> None:
    case = Case(w)
    h = case.g.activate(case.linear(case.x, "a"), "relu")
    case.g.output("hidden_states", case.x + case.linear(h, "b"))
    program = lower(case.g, Packer("float32", 1)).program
    table, a, b = (w.checkpoint.read(f"{n}.weight").astype(np.float64) for n in ("table", "a", "b"))
    expected = table + np.maximum(table @ a.T, 0) @ b.T
    assert np.abs(run(program) - expected).max() < 1e-5


def test_buffers_are_used_again(tiny) -> None:
    """A deep model needs no more buffers than a shallow one."""
    text = str(qkv.load(tiny("gpt2")).program)
    assert max(int(line[1 : line.index(" ")]) for line in text.splitlines()) < 10


def test_shapes_that_differ(w) -> None:
    case = Case(w)
    narrow = Tensor(case.x.op, (), WIDTH // 2)
    with pytest.raises(ValueError, match="differ"):
        case.x + narrow


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_norms_convert(dtype: str, tiny) -> None:
    """A norm whose rows are also a residual writes both; one that only a linear layer reads writes the converted."""
    post = str(qkv.load(tiny("bert"), dtype=dtype).program).splitlines()
    norms = [line for line in post if "layer_norm(" in line]
    assert all(re.search(r"\), %\d+ as int8$", line) for line in norms[:-1])
    assert "int8" not in norms[-1]
    assert sum("convert(" in line for line in post) == 2 * 2  # of each layer: attention's and the activation's
    pre = str(qkv.load(tiny("llama"), dtype=dtype).program).splitlines()
    norms = [line for line in pre if "rms_norm(" in line]
    assert all(line.endswith(") as int8") for line in norms[:-1])
