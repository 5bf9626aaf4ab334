"""Operations and bytes of a run, beside PyTorch's own count and arithmetic by hand; speeds from given ceilings."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tests.tiny import CASES
from torch.utils.flop_counter import FlopCounterMode

import qkv
from qkv import _ext, models
from qkv.bench import CEILINGS, Machine
from qkv.checkpoint import Config, Weights
from qkv.graph import Graph, Tensor
from qkv.graph.tensor import Attention
from qkv.planning import planner
from qkv.planning.planner import Outline, outline
from qkv.planning.speed import _pairs, prompt_cost, token_cost

TOKENS = 37


def outlined(config: dict[str, Any], dtype: str = "float32") -> Outline:
    architecture = models.architecture(config["model_type"], "config.json")
    return outline(architecture, architecture.Config.from_dict(config), config, dtype)


def torch_operations(case: str) -> int:
    """Of the layers: products of whole matrices, so that attention counts the pairs of all tokens."""
    options = CASES[case].options | {"attn_implementation": "eager"}
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = getattr(transformers, CASES[case].model)(getattr(transformers, CASES[case].config)(**options))
        model.base_model(torch.zeros(1, TOKENS, dtype=torch.long))
    return counter.get_total_flops()


def config_of(case: str, tiny) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    found: dict[str, Any] = json.loads((tiny(case) / "config.json").read_text())
    return found


def test_operations_of_an_encoder(tiny) -> None:  # type: ignore[no-untyped-def]
    found = prompt_cost(outlined(config_of("bert", tiny)), TOKENS).operations
    assert found.keys() == {"float32"}
    assert found["float32"] == torch_operations("bert")


@pytest.mark.parametrize(
    ("case", "layers", "width", "hidden", "vocabulary"),
    [("gpt2", 3, 48, 48, 103), ("llama", 2, 48, 48, 107), ("llama-head-dim", 2, 144, 54, 107)],
)
def test_operations_of_a_decoder(case: str, layers: int, width: int, hidden: int, vocabulary: int, tiny) -> None:  # type: ignore[no-untyped-def]
    """Half of the pairs are masked, and logits are computed for one token."""
    unseen = TOKENS * (TOKENS - 1) // 2
    expected = torch_operations(case) - layers * 4 * unseen * width + 2 * vocabulary * hidden
    assert prompt_cost(outlined(config_of(case, tiny)), TOKENS).operations["float32"] == expected


@pytest.mark.parametrize(("dtype", "arithmetic"), [("bfloat16", "bfloat16"), ("int8", "int8"), ("int4", "int8")])
def test_attention_is_work_in_the_type_of_keys_and_values(dtype: str, arithmetic: str, tiny) -> None:  # type: ignore[no-untyped-def]
    exact = prompt_cost(outlined(config_of("gpt2", tiny)), TOKENS).operations["float32"]
    found = prompt_cost(outlined(config_of("gpt2", tiny), dtype), TOKENS).operations
    assert found.keys() == {arithmetic, "bfloat16"}
    assert sum(found.values()) == exact
    if arithmetic != "bfloat16":
        assert found["bfloat16"] == 3 * 4 * (TOKENS * (TOKENS + 1) // 2) * 48


def test_a_token_reads_every_layer_and_what_is_cached(tiny) -> None:  # type: ignore[no-untyped-def]
    """But tables only in rows. This table is tied, so that the output layer reads it."""
    of = outlined(config_of("gpt2", tiny), "float32")
    vectors, positions = 4 * 48 * (2 * 2 * 3 + 2), 4 * 400 * 48
    weights = qkv.load(tiny("gpt2"), dtype="float32").nbytes - vectors - positions
    page = _ext.page_nbytes(3, 2, 24, "float32")
    assert token_cost(of, 63).nbytes == weights + page
    assert token_cost(of, 127).nbytes == weights + 2 * page


def test_a_token_goes_through_some_experts(tiny) -> None:  # type: ignore[no-untyped-def]
    """Of 5 in 2 layers, each three matrices [44, 48]: as many are multiplied with and read. Prompts read them all."""
    config = config_of("mixtral", tiny)
    chosen = {k: outlined(config | {"num_experts_per_tok": k}) for k in (1, 2, 5)}
    tokens = {k: token_cost(of, 63) for k, of in chosen.items()}
    assert tokens[2].operations["float32"] - tokens[1].operations["float32"] == pytest.approx(2 * 2 * 3 * 44 * 48)
    experts = [w.nbytes for name, w in chosen[1].packer.weights.items() if ".experts." in name]
    assert len(experts) == 2 * 5 * 2
    assert tokens[5].nbytes - tokens[1].nbytes == pytest.approx(sum(experts) * 4 / 5)
    assert prompt_cost(chosen[1], 100).nbytes == prompt_cost(chosen[5], 100).nbytes


def test_a_window_bounds_what_attention_sees() -> None:
    """Pairs and cached positions, of one head of width 16 over 100 tokens."""

    def op(causal: bool, window: int | None) -> Attention:
        return Attention(1, 1, 16, 1.0, causal, 0, window=window)

    def brute(causal: bool, window: int | None) -> int:
        seen = ((q, k) for q in range(100) for k in range(100) if not causal or k <= q)
        return sum(window is None or abs(q - k) < window for q, k in seen)

    for causal in (True, False):
        for window in (None, 1, 7, 100, 1000):
            assert _pairs(op(causal, window), 100, 0) == brute(causal, window)
    assert _pairs(op(True, 7), 3, 50) == 21
    assert _pairs(op(True, None), 2, 50) == 51 + 52


def test_an_encoder_with_a_decoder() -> None:
    """The source is read once; a token then attends to it and to those before."""

    def build(g: Graph, c: Config, w: Weights) -> Tensor:
        memory = g.embed(w["source"], vocab_size=11, hidden_size=16, source=True)
        memory = g.linear(memory, w["encoder"], 32, bias=False)
        x = g.embed(w["tokens"], vocab_size=11, hidden_size=16)
        for scope, read, causal in (("self", x, True), ("cross", memory, False)):
            q = g.linear(x, w[f"{scope}.q"], 16, bias=False)
            k, v = (g.linear(read, w[f"{scope}.{part}"], 16, bias=False) for part in "kv")
            x = x + g.attention(q, k, v, head_dim=8, causal=causal)
        g.output("logits", g.logits(x, w["head"], 11))
        return memory

    of = outline(SimpleNamespace(build=build), Config(), {}, "float32")  # type: ignore[arg-type]
    encoder, cross, selfs, head = 16 * 32, 2 * 32 * 16, 3 * 16 * 16, 16 * 11
    assert prompt_cost(of, 10).operations == {"float32": 2 * 10 * (encoder + cross)}

    token = token_cost(of, 63)
    attention = 4 * (63 + 64) * 16
    assert token.operations == {"float32": 2 * (selfs + 16 * 16 + head) + attention}
    panel = _ext.chosen_isa()["panel"]
    columns = sum(-(-n // panel) * panel for n in (3 * 16, 16, 11))
    page = _ext.page_nbytes(1, 2, 8, "float32")
    assert token.nbytes == pytest.approx(4 * 16 * columns + page * (63 + 64) / 64)
    assert of.page_nbytes("float32") == 2 * page


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "int4"])
def test_every_weight_has_a_cost(case: str, dtype: str, tiny, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """What is packed is either a table to look up rows in, or a layer that the cost of a run counts."""
    of = outlined(config_of(case, tiny), dtype)
    layers = {name for name in of.packer.weights if not name.startswith("rows(")}
    counted = []
    matrix = of.packer.matrix
    monkeypatch.setattr(of.packer, "matrix", lambda op: counted.append(matrix(op)) or counted[-1])
    prompt_cost(of, 1)
    token_cost(of, 1)
    assert {id(weight) for weight in counted} == {id(of.packer.weights[name]) for name in layers}


@pytest.fixture
def ceilings(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A machine whose arithmetic takes no time, and that reads a byte a second."""
    given = dict.fromkeys(CEILINGS, 1e30) | {"memory": 1.0}
    monkeypatch.setattr(Machine, "steady_ceiling", lambda self, of: given[of])
    return given


def test_speeds_follow_from_the_ceilings(tiny_gpt2: Path, ceilings: dict[str, float]) -> None:
    found = qkv.plan(tiny_gpt2, prompt_tokens=63)
    assert found.ceilings == ceilings
    assert (found.prompt_tokens, found.threads) == (63, qkv.info()["threads"])
    config = json.loads((tiny_gpt2 / "config.json").read_text())
    for dtype, of in found.weights.items():
        planned = outlined(config, dtype)
        assert of.prompt is not None
        assert of.new_tokens is not None
        assert of.prompt.at_most == pytest.approx(63 / prompt_cost(planned, 63).nbytes)
        assert of.new_tokens.at_most == pytest.approx(1 / token_cost(planned, 63).nbytes)
        for speed in (of.prompt, of.new_tokens):
            assert 0.3 * speed.at_most < speed.expected < speed.at_most


@pytest.mark.parametrize("dtype", ["float32", "int8", "int4"])
def test_arithmetic_bounds_prompts(dtype: str, tiny_gpt2: Path, ceilings: dict[str, float]) -> None:
    ceilings |= {"float32": 1e6, "int8": 4e6, "memory": 1e30}
    found = qkv.plan(tiny_gpt2).weights[dtype].prompt
    work = prompt_cost(outlined(json.loads((tiny_gpt2 / "config.json").read_text()), dtype), 400).operations
    assert found is not None
    assert found.at_most == pytest.approx(400 / sum(count / ceilings[kind] for kind, count in work.items()))


def test_what_does_not_fit_has_no_speed(
    tiny_gpt2: Path, ceilings: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = qkv.plan(tiny_gpt2, measure=False).weights["float32"].nbytes
    monkeypatch.setattr(planner, "_RUN_TOKENS", 1)
    monkeypatch.setattr(planner, "available_memory", lambda: largest)
    found = qkv.plan(tiny_gpt2).weights
    assert {dtype: of.new_tokens is not None for dtype, of in found.items()} == {
        "float32": False,
        "bfloat16": True,
        "int8": True,
        "int4": True,
    }
    monkeypatch.setattr(planner, "available_memory", lambda: 0)
    assert qkv.plan(tiny_gpt2).ceilings is None


def test_an_encoder_makes_no_new_tokens(tiny_bert: Path, ceilings: dict[str, float]) -> None:
    found = qkv.plan(tiny_bert, prompt_tokens=16)
    assert all(of.prompt and of.new_tokens is None for of in found.weights.values())
