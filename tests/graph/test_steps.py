"""Steps that single architectures need, each from the graph to its numbers, against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

import qkv
from qkv import _ext
from qkv.checkpoint import Checkpoint, Weights
from qkv.generation.pool import PagePool
from qkv.graph import Beyond, Graph, Lowered, Rope, Tensor, lower
from qkv.graph.pack import Packer
from qkv.source import Source

HEADS, DIM, TOKENS, SOURCE = 2, 6, 30, 70
WIDTH = HEADS * DIM
Array = NDArray[np.float64]


@pytest.fixture
def w(tmp_path) -> Weights:
    rng = np.random.default_rng(0)
    shapes = {"table": (SOURCE, WIDTH), "fused": (3 * WIDTH, WIDTH), "norm": (WIDTH,), "head_norm": (DIM,)}
    shapes |= dict.fromkeys("qkv", (WIDTH, WIDTH))
    tensors = {f"{name}.weight": rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    tensors["fused.bias"] = rng.standard_normal(3 * WIDTH, np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    return Weights(Checkpoint.open(tmp_path))


def values(w: Weights, name: str) -> Array:
    return w.checkpoint.read(name if "." in name else f"{name}.weight").astype(np.float64)


def embed(g: Graph, w: Weights, **options: Any) -> Tensor:
    return g.embed(w["table"], vocab_size=SOURCE, hidden_size=WIDTH, **options)


def batch(lengths: list[int], **options: Any) -> _ext.Batch:
    ids = np.concatenate([np.arange(n) for n in lengths])
    return _ext.Batch(ids, np.cumsum([0, *lengths]), [], [], [], **options)


def run(g: Graph, y: Tensor, lengths: list[int] | None = None) -> NDArray[np.float32]:
    g.output("hidden_states", y)
    return lower(g, Packer("float32", 1)).program.run(["hidden_states"], batch(lengths or [TOKENS]), 1)[0]


def assert_close(got: NDArray[np.float32], expected: Array) -> None:
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attend(q: Array, k: Array, v: Array, *, causal: bool) -> Array:
    """q: [tokens, WIDTH]; k, v: [keys, WIDTH]"""
    q, k, v = (x.reshape(-1, HEADS, DIM).swapaxes(0, 1) for x in (q, k, v))
    scores = q @ k.swapaxes(1, 2) * DIM**-0.5
    if causal:
        scores += np.triu(np.full(scores.shape[1:], -np.inf), 1)
    return (softmax(scores) @ v).swapaxes(0, 1).reshape(-1, WIDTH)


def turned(x: Array, frequencies: Array, *, interleaved: bool, scale: float) -> Array:
    """x: [tokens, WIDTH]; each head's first 2 len(frequencies) values turn."""
    x = x.reshape(-1, HEADS, DIM).copy()
    n = len(frequencies)
    first, second = (slice(0, 2 * n, 2), slice(1, 2 * n, 2)) if interleaved else (slice(0, n), slice(n, 2 * n))
    angle = np.arange(len(x))[:, None, None] * frequencies
    a, b = x[..., first].copy(), x[..., second].copy()
    x[..., first] = scale * (a * np.cos(angle) - b * np.sin(angle))
    x[..., second] = scale * (b * np.cos(angle) + a * np.sin(angle))
    return x.reshape(-1, WIDTH)


def test_scaled_embeddings(w) -> None:
    g = Graph()
    assert_close(run(g, embed(g, w, scale=3.5)), 3.5 * values(w, "table")[:TOKENS])


def test_scale_and_soft_cap(w) -> None:
    g = Graph()
    table = values(w, "table")[:TOKENS]
    assert_close(run(g, g.soft_cap(g.scale(embed(g, w), 0.3), 2.0)), 2 * np.tanh(0.3 * table / 2))


@pytest.mark.parametrize("function", ["sigmoid", "tanh", "quick_gelu"])
def test_activations_alone_and_in_a_linear_layer(function: str, w) -> None:
    reference = {
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "tanh": np.tanh,
        "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    }[function]
    table = values(w, "table")[:TOKENS]
    g = Graph()
    assert_close(run(g, g.activate(embed(g, w), function)), reference(table))
    g = Graph()
    y = g.activate(g.linear(embed(g, w), w["q"], WIDTH, bias=False), function)
    assert_close(run(g, y), reference(table @ values(w, "q").T))


def test_sum_and_product(w) -> None:
    g = Graph()
    x = embed(g, w)
    table = values(w, "table")[:TOKENS]
    assert_close(run(g, (x + g.scale(x, 2.0)) * x), 3 * table * table)


def test_norms_with_a_shifted_weight_and_of_heads(w) -> None:
    table = values(w, "table")[:TOKENS]
    g = Graph()
    rows = table / np.sqrt((table**2).mean(-1, keepdims=True) + 1e-3)
    assert_close(run(g, g.rms_norm(embed(g, w), w["norm"], eps=1e-3, shift=1.0)), rows * (1 + values(w, "norm")))
    g = Graph()
    heads = table.reshape(TOKENS, HEADS, DIM)
    heads = heads / np.sqrt((heads**2).mean(-1, keepdims=True) + 1e-3) * values(w, "head_norm")
    assert_close(run(g, g.rms_norm(embed(g, w), w["head_norm"], eps=1e-3, head_dim=DIM)), heads.reshape(TOKENS, WIDTH))


@pytest.mark.parametrize("groups", [1, HEADS])
@pytest.mark.parametrize("normed", [False, True])
def test_fused_projections(groups: int, normed: bool, w) -> None:
    """One matrix of the checkpoint, one linear step; also when a norm of heads reads its slices."""
    g = Graph()
    q, k, v = g.linears(embed(g, w), w["fused"], [WIDTH] * 3, bias=True, groups=groups)
    if normed:
        q, k = (g.rms_norm(x, w["head_norm"], eps=1e-3, head_dim=DIM) for x in (q, k))
    g.output("hidden_states", g.attention(q, k, v, head_dim=DIM, causal=True))
    program = lower(g, Packer("float32", 1)).program
    assert str(program).count("linear(") == 1

    fused = values(w, "table")[:TOKENS] @ values(w, "fused").T + values(w, "fused.bias")
    parts = fused.reshape(TOKENS, groups, 3, WIDTH // groups).transpose(2, 0, 1, 3).reshape(3, TOKENS, WIDTH)
    if normed:
        heads = parts[:2].reshape(2, TOKENS, HEADS, DIM)
        heads = heads / np.sqrt((heads**2).mean(-1, keepdims=True) + 1e-3) * values(w, "head_norm")
        parts[:2] = heads.reshape(2, TOKENS, WIDTH)
    assert_close(program.run(["hidden_states"], batch([TOKENS]), 1)[0], attend(*parts, causal=True))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dim", [2, 4, DIM])
def test_rotary_layouts(interleaved: bool, dim: int, w) -> None:
    frequencies = tuple(0.3 / (i + 1) for i in range(dim // 2))
    g = Graph()
    q, k, v = (g.linear(embed(g, w), w[name], WIDTH, bias=False) for name in "qkv")
    y = g.attention(q, k, v, head_dim=DIM, causal=True, rope=Rope(frequencies, interleaved, scale=1.2))
    table = values(w, "table")[:TOKENS]
    q_, k_, v_ = (table @ values(w, name).T for name in "qkv")
    turn = {"interleaved": interleaved, "scale": 1.2}
    q_, k_ = (turned(x, np.array(frequencies), **turn) for x in (q_, k_))
    assert_close(run(g, y), attend(q_, k_, v_, causal=True))


@pytest.mark.parametrize("ntk_factor", [None, 4.0])
def test_long_sequences_turn_by_other_angles(ntk_factor: float | None, w) -> None:
    short, long, limit = (0.3, 0.2, 0.1), (0.2, 0.1, 0.05), 20
    g = Graph()
    q, k, v = (g.linear(embed(g, w), w[name], WIDTH, bias=False) for name in "qkv")
    rope = Rope(short, beyond=Beyond(limit, long, 1.5, ntk_factor))
    y = run(g, g.attention(q, k, v, head_dim=DIM, causal=True, rope=rope), [5, 25, limit, 21, 4])
    for n, got in zip([5, 25, limit, 21, 4], np.split(y, [5, 30, 50, 71]), strict=True):
        q_, k_, v_ = (values(w, "table")[:n] @ values(w, name).T for name in "qkv")
        frequencies = np.array(long if n > limit else short)
        if n > limit and ntk_factor:
            frequencies = frequencies * (ntk_factor * n / limit - ntk_factor + 1) ** (-np.arange(3) / 2)
        scale = 1.5 if n > limit else 1.0
        q_, k_ = (turned(x, frequencies, interleaved=False, scale=scale) for x in (q_, k_))
        assert_close(got, attend(q_, k_, v_, causal=True))


def test_planned_lengths(w) -> None:
    """Angles follow the planned length: a chunked sequence must say it, and gives the bits of the whole."""
    g = Graph()
    q, k, v = (g.linear(embed(g, w), w[name], WIDTH, bias=False) for name in "qkv")
    rope = Rope((0.3, 0.2, 0.1), beyond=Beyond(20, (0.2, 0.1, 0.05)))
    g.output("hidden_states", g.attention(q, k, v, head_dim=DIM, causal=True, rope=rope))
    lowered = lower(g, Packer("float32", 1))
    whole = lowered.program.run(["hidden_states"], batch([TOKENS]), 1)[0]
    assert lowered.cache
    cache = lowered.cache.cache(1)
    pages = [[cache.allocate()]]
    part = batch([8], cache=cache, pages=pages, planned=[TOKENS])
    assert lowered.program.run(["hidden_states"], part, 1)[0].tobytes() == whole[:8].tobytes()
    with pytest.raises(qkv.Error, match="how long each is planned to be"):
        lowered.program.run(["hidden_states"], batch([8], cache=cache, pages=pages), 1)
    with pytest.raises(qkv.Error, match="more than planned"):
        lowered.program.run(["hidden_states"], batch([8], planned=[7]), 1)


def translator(w: Weights, dtype: str = "float32") -> Lowered:
    """An encoder of nothing but an embedding, and a decoder of one cross-attention."""
    g = Graph()
    found, x = embed(g, w, source=True), embed(g, w)
    q, k, v = (g.linear(y, w[name], WIDTH, bias=False) for y, name in ((x, "q"), (found, "k"), (found, "v")))
    g.output("encoder_hidden_states", found)
    g.output("hidden_states", g.attention(q, k, v, head_dim=DIM, causal=False))
    return lower(g, Packer(dtype, 1))


def room_for(lowered: Lowered, lengths: list[int]) -> Source:
    assert lowered.encoder is not None
    assert lowered.source_cache is not None
    return Source.empty(PagePool(lowered.source_cache, 1 << 20, lowered.encoder), lengths)


def test_cross_attention(w) -> None:
    lowered = translator(w)
    assert lowered.encoder is not None
    assert lowered.cache is None
    lengths, source_lengths = [3, 1, 20], [5, SOURCE, 64]
    source = room_for(lowered, source_lengths)
    at = {"source": source.cache, "source_pages": source.pages}
    lowered.encoder.run([], batch(source_lengths, **at), 1)
    y = lowered.program.run(["hidden_states"], batch(lengths, **at, source_lengths=source_lengths), 1)[0]
    for n, keys, got in zip(lengths, source_lengths, np.split(y, np.cumsum(lengths)[:-1]), strict=True):
        table = values(w, "table")
        q, k, v = table[:n] @ values(w, "q").T, table[:keys] @ values(w, "k").T, table[:keys] @ values(w, "v").T
        assert_close(got, attend(q, k, v, causal=False))
    assert_close(
        lowered.encoder.run(["encoder_hidden_states"], batch([SOURCE]), 1)[0], values(w, "table")
    )  # without a place for keys and values, too


def test_cross_attention_weights(w) -> None:
    lowered = translator(w)
    assert lowered.encoder is not None
    assert lowered.program.cross_attention_heads == [HEADS]
    assert lowered.program.attention_heads == []
    lengths, source_lengths = [3, 20], [SOURCE, 5]
    source = room_for(lowered, source_lengths)
    at = {"source": source.cache, "source_pages": source.pages}
    lowered.encoder.run([], batch(source_lengths, **at), 1)
    weights = [np.empty((HEADS, n, m), np.float32) for n, m in zip(lengths, source_lengths, strict=True)]
    decode = batch(lengths, **at, source_lengths=source_lengths, cross_weights=[weights])
    lowered.program.run(["hidden_states"], decode, 1)
    table = values(w, "table")
    for got, n, m in zip(weights, lengths, source_lengths, strict=True):
        q, k = ((table @ values(w, p).T).reshape(-1, HEADS, DIM).swapaxes(0, 1) for p in "qk")
        assert_close(got, softmax(q[:, :n] @ k[:, :m].swapaxes(1, 2) * DIM**-0.5))


def test_sources_that_do_not_fit(w) -> None:
    lowered = translator(w)
    source = room_for(lowered, [5])
    at = {"source": source.cache, "source_pages": source.pages}
    for options, message in (
        ({}, "run that before"),
        (at, "run that before"),
        (at | {"source_lengths": [0]}, "no source tokens"),
        (at | {"source_lengths": [65]}, "1 pages do not hold 65 positions"),
        (at | {"source_lengths": [5, 5]}, "one source length per sequence"),
        (at | {"source_pages": [[9]], "source_lengths": [5]}, "page 9"),
        ({"source": _ext.KVCache(1, 1, 4, "float32", 1 << 20), "source_pages": [[]], "source_lengths": [0]}, "another"),
    ):
        with pytest.raises(qkv.Error, match=message):
            lowered.program.run(["hidden_states"], batch([2], **options), 1)


def test_several_outputs_of_one_run(w) -> None:
    g = Graph()
    x = g.hidden(embed(g, w))
    y = g.hidden(g.scale(x, 2.0))
    g.output("hidden_states", y)
    g.output("last", g.scale(y, 2.0))
    program = lower(g, Packer("float32", 1)).program
    assert set(program.outputs) == {"hidden_states.0", "hidden_states.1", "hidden_states", "last"}
    table = values(w, "table")[:TOKENS]
    names = ["last", "hidden_states.0", "hidden_states", "hidden_states.1"]
    for got, factor in zip(program.run(names, batch([TOKENS]), 1), (4, 1, 2, 2), strict=True):
        assert_close(got, factor * table)
    same = program.run(["hidden_states", "hidden_states.1"], batch([TOKENS]), 1)
    assert same[0].tobytes() == same[1].tobytes()
