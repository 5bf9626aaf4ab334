"""Attention's options on their way from a model file to the kernel, and what keys and values are kept as."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.kernels.reference import attention

import qkv
from qkv import _ext
from qkv.checkpoint import Checkpoint, Weights
from qkv.graph import Graph, Lowered, RelativeBias, lower
from qkv.graph.pack import Packer

HEADS, DIM, TOKENS = 2, 4, 30
WIDTH = HEADS * DIM
SLOPES = (0.7, 0.25)


@pytest.fixture
def w(tmp_path) -> Weights:
    rng = np.random.default_rng(0)
    tensors = {f"{name}.weight": rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) for name in "qkv"}
    tensors["table.weight"] = rng.standard_normal((TOKENS, WIDTH)).astype(np.float32)
    tensors["bias.weight"] = rng.standard_normal((3, HEADS)).astype(np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    return Weights(Checkpoint.open(tmp_path))


def relative_bias(w: Weights) -> RelativeBias:
    """Distances -2 ... 2 in three buckets."""
    return RelativeBias(w["bias"].param("weight", (3, HEADS)), (1, 1, 0, 2, 2))


def lowered(w: Weights, kv_dtype: str = "auto", dtype: str = "float32", causal: bool = True, **options) -> Lowered:
    g = Graph()
    x = g.embed(w["table"], vocab_size=TOKENS, hidden_size=WIDTH)
    q, k, v = (g.linear(x, w[name], WIDTH, bias=False) for name in "qkv")
    g.output("hidden_states", g.attention(q, k, v, head_dim=DIM, causal=causal, **options))
    return lower(g, Packer(dtype, 1), kv_dtype)


def run(program: _ext.Program) -> np.ndarray:
    empty = np.empty(0, np.int64)
    ids = np.arange(TOKENS, dtype=np.int32)
    batch = _ext.Batch(ids, np.array([0, TOKENS]), np.empty(0, np.int32), empty, empty, None, [])
    return program.run(["hidden_states"], batch, 1)[0]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["none", "window", "soft_cap", "alibi_slopes", "rounded_alibi", "relative_bias"])
def test_options_reach_the_kernel(name: str, causal: bool, w) -> None:
    options, arguments, text = {
        "none": ({}, {}, "heads of 4"),
        "window": ({"window": 5}, {"window": 5}, "window 5"),
        "soft_cap": ({"soft_cap": 2.0}, {"soft_cap": 2.0}, "soft cap 2"),
        "alibi_slopes": ({"alibi_slopes": SLOPES}, {"slopes": np.float32(SLOPES)}, ", ALiBi"),
        "rounded_alibi": (
            {"alibi_slopes": SLOPES, "rounded_alibi": True},
            {"slopes": np.float32(SLOPES), "rounded_alibi": True},
            ", rounded ALiBi",
        ),
        "relative_bias": (
            {"relative_bias": relative_bias(w)},
            {"relative_bias": w.checkpoint.read("bias.weight")[[1, 1, 0, 2, 2]].T.copy()},
            "bias of distances up to 2",
        ),
    }[name]
    program = lowered(w, causal=causal, **options).program
    assert text in str(program)
    assert ("causal" in str(program)) == causal
    table = w.checkpoint.read("table.weight").astype(float)
    q, k, v = (
        (table @ w.checkpoint.read(f"{p}.weight").T).astype(np.float32).reshape(1, TOKENS, HEADS, DIM) for p in "qkv"
    )
    expected, _ = attention(q, k, v, causal, DIM**-0.5, **arguments)
    np.testing.assert_allclose(run(program), expected.reshape(TOKENS, WIDTH), atol=1e-5)


def test_options_that_do_not_fit(w) -> None:
    with pytest.raises(ValueError, match="window 0 hides every key"):
        lowered(w, window=0)
    with pytest.raises(ValueError, match="3 ALiBi slopes for 2 heads"):
        lowered(w, alibi_slopes=(1.0, 0.5, 0.25))
    with pytest.raises(ValueError, match="rounded ALiBi needs slopes"):
        lowered(w, rounded_alibi=True)


def test_what_keys_and_values_are_kept_as(w) -> None:
    chosen = {
        ("auto", "float32", True): "float32",
        ("auto", "bfloat16", True): "bfloat16",
        ("auto", "bfloat16", False): "bfloat16",
        ("auto", "int8", False): "bfloat16",
        ("int8", "float32", True): "int8",
        ("bfloat16", "float32", False): "bfloat16",
    }
    for (kv_dtype, dtype, causal), expected in chosen.items():
        model = lowered(w, kv_dtype, dtype, causal)
        assert model.kv_dtype == expected
        assert (f"in {expected}" in str(model.program)) == (expected != "float32")
        assert (model.cache is None) == (not causal)
        if model.cache:
            assert model.cache.dtype == expected
    exact, rounded = run(lowered(w).program), run(lowered(w, "int8").program)
    assert 0 < abs(exact - rounded).max() < 0.1


def test_caches_of_every_type(tiny) -> None:
    sizes = {}
    for kv_dtype in ("float32", "bfloat16", "int8"):
        model = qkv.load(tiny("llama"), kv_dtype=kv_dtype)
        assert model.kv_dtype == kv_dtype
        sizes[kv_dtype] = model.new_cache(64).page_nbytes
    assert sizes["float32"] == 2 * sizes["bfloat16"]
    assert sizes["bfloat16"] > sizes["int8"] > sizes["float32"] / 4
    other = qkv.load(tiny("llama"), kv_dtype="int8").new_cache(64)
    with pytest.raises(qkv.Error, match=r"made for another model: .* in int8"):
        qkv.load(tiny("llama")).run(
            "logits", [np.array([1], np.int32)], past=[0], cache=other, pages=[[other.allocate()]]
        )
