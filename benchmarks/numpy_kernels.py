"""How fast are qkv's kernels beside NumPy? `python -m benchmarks.numpy_kernels [--out FOLDER]`

Each kernel, and a whole BERT-base layer, against a straightforward vectorised NumPy version whose BLAS has as
many threads. Both sides are checked against each other, then timed in turns. With --out, figures go to
numpy_kernels.json and a picture to numpy_kernels.png. Needs the `bench` extra.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.special import erf

from benchmarks.timing import Pair, paired
from qkv import _ext, machine, ops

THREADS = machine.default_threads()
Array = np.ndarray


@dataclass(frozen=True)
class Case:
    name: str
    numpy: Callable[[], Array]
    qkv: Callable[[], Array]


# --- NumPy's side -------------------------------------------------------------------------------------------


# As one writes NumPy that has to be fast: no pass that can be saved, and temporaries are worked on in place.


def np_softmax(x: Array) -> Array:
    e = x - x.max(axis=-1, keepdims=True)
    np.exp(e, out=e)
    e /= e.sum(axis=-1, keepdims=True)
    return e


def np_layer_norm(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> Array:
    y = x - x.mean(axis=-1, keepdims=True)
    variance = np.vecdot(y, y)[..., None] / np.float32(x.shape[-1])
    y *= 1 / np.sqrt(variance + np.float32(eps))
    y *= weight
    y += bias
    return y


def np_rms_norm(x: Array, weight: Array, eps: float = 1e-6) -> Array:
    mean_square = np.vecdot(x, x)[..., None] / np.float32(x.shape[-1])
    y = x * (1 / np.sqrt(mean_square + np.float32(eps)))
    y *= weight
    return y


def np_gelu(x: Array) -> Array:
    y = x * np.float32(0.5**0.5)
    erf(y, out=y)
    y += 1
    y *= x
    y *= np.float32(0.5)
    return y


def np_gelu_tanh(x: Array) -> Array:
    y = x * x
    y *= np.float32(0.7978845608 * 0.044715)
    y += np.float32(0.7978845608)
    y *= x
    np.tanh(y, out=y)
    y += 1
    y *= x
    y *= np.float32(0.5)
    return y


def np_silu(x: Array) -> Array:
    y = -x
    np.exp(y, out=y)
    y += 1
    return np.divide(x, y, out=y)


def np_rope(x: Array, cosine: Array, sine: Array) -> Array:
    """cosine and sine: [tokens, head_dim], with the sines of the first half negated."""
    half = x.shape[-1] // 2
    y = x * cosine
    other = np.empty_like(x)
    other[..., :half], other[..., half:] = x[..., half:], x[..., :half]
    other *= sine
    y += other
    return y


def np_attention(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """q, k, v: [heads, tokens, head_dim]."""
    scores = q @ k.swapaxes(-1, -2) * np.float32(q.shape[-1] ** -0.5)
    return np_softmax(scores if mask is None else scores + mask) @ v


def np_bert_layer(x: Array, w: dict[str, Array], b: dict[str, Array], heads: int = 12) -> Array:
    def split(y: Array) -> Array:
        return y.reshape(len(x), heads, -1).swapaxes(0, 1)

    q, k, v = (split(x @ w[name].T + b[name]) for name in ("query", "key", "value"))
    attended = np_attention(q, k, v).swapaxes(0, 1).reshape(x.shape)
    x = np_layer_norm(x + attended @ w["output"].T + b["output"], w["norm1"], b["norm1"])
    hidden = np_gelu(x @ w["up"].T + b["up"])
    return np_layer_norm(x + hidden @ w["down"].T + b["down"], w["norm2"], b["norm2"])


# --- qkv's side ---------------------------------------------------------------------------------------------


def packed(weight: Array, bias: Array | None = None) -> _ext.Weight:
    """As a model holds it: packed once."""
    result = _ext.Weight(*weight.shape, "float32", "panels")
    result.fill(weight, 0, 0, THREADS)
    if bias is not None:
        result.fill_bias(bias, 0, 0)
    return result


def linear(x: Array, weight: _ext.Weight, activation: str = "identity", residual: Array | None = None) -> Array:
    return _ext.linear(x, weight, activation, residual, THREADS)


def bert_layer(x: Array, packs: dict[str, _ext.Weight], w: dict[str, Array], b: dict[str, Array]) -> Array:
    q, k, v = (linear(x, packs[name]).reshape(1, len(x), 12, -1) for name in ("query", "key", "value"))
    attended = _ext.attention(q, k, v, None, False, q.shape[-1] ** -0.5, THREADS).reshape(x.shape)
    x = _ext.norm(linear(attended, packs["output"], "identity", x), w["norm1"], b["norm1"], 1e-5, True, THREADS)
    hidden = linear(x, packs["up"], "gelu")
    return _ext.norm(linear(hidden, packs["down"], "identity", x), w["norm2"], b["norm2"], 1e-5, True, THREADS)


# --- the cases ----------------------------------------------------------------------------------------------


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def linear_cases() -> Iterator[Case]:
    for rows, n_in, n_out in (
        (1, 768, 768),
        (1, 768, 3072),
        (16, 768, 768),
        (128, 768, 3072),
        (512, 768, 768),
    ):
        x, w, b = normal(rows, n_in), normal(n_out, n_in) / 28, normal(n_out)
        pack = packed(w, b)
        yield Case(
            f"linear, {rows} row{'s' * (rows > 1)}, {n_in} → {n_out}",
            lambda x=x, w=w, b=b: x @ w.T + b,
            lambda x=x, pack=pack: linear(x, pack),
        )
    x, w, b = normal(128, 768), normal(3072, 768) / 28, normal(3072)
    yield Case("ops.linear (packs in each call), 128 rows", lambda: x @ w.T + b, lambda: ops.linear(x, w, b))
    pack = packed(w, b)
    yield Case("linear + GELU, 128 rows", lambda: np_gelu(x @ w.T + b), lambda: linear(x, pack, "gelu"))
    w2, b2 = normal(768, 3072) / 55, normal(768)
    pack2 = packed(w2, b2)
    yield Case(
        "FFN, 128 rows",
        lambda: np_gelu(x @ w.T + b) @ w2.T + b2,
        lambda: linear(linear(x, pack, "gelu"), pack2),
    )


def row_cases() -> Iterator[Case]:
    x, weight, bias = normal(128, 768), normal(768), normal(768)
    yield Case(
        "LayerNorm, 128 × 768",
        lambda: np_layer_norm(x, weight, bias),
        lambda: ops.layer_norm(x, weight, bias),
    )
    yield Case("RMSNorm, 128 × 768", lambda: np_rms_norm(x, weight), lambda: ops.rms_norm(x, weight))
    wide, scores = normal(128, 3072), normal(12, 128, 128)
    yield Case("softmax, 1536 × 128", lambda: np_softmax(scores), lambda: ops.softmax(scores))
    yield Case("GELU, 128 × 3072", lambda: np_gelu(wide), lambda: ops.gelu(wide))
    yield Case("SiLU, 128 × 3072", lambda: np_silu(wide), lambda: ops.silu(wide))
    yield Case("GELU (tanh), 128 × 3072", lambda: np_gelu_tanh(wide), lambda: ops.gelu(wide, "tanh"))
    heads = normal(32, 128, 64)
    angles = np.arange(128)[:, None] * 10000.0 ** -(np.arange(64) % 32 / 32)
    cosine = np.cos(angles).astype(np.float32)
    sine = (np.sin(angles) * np.repeat([-1, 1], 32)).astype(np.float32)
    yield Case("RoPE, 32 heads of 128 × 64", lambda: np_rope(heads, cosine, sine), lambda: ops.rope(heads))


def attention_cases() -> Iterator[Case]:
    for tokens in (32, 128, 512):
        x = [normal(tokens + i, 12, 64)[:tokens].swapaxes(0, 1) for i in range(3)]  # as a layer's projections lie
        yield Case(
            f"attention, 12 heads, {tokens} tokens",
            lambda x=x: np_attention(*x),
            lambda x=x: ops.attention(*x),
        )
    q, k, v = (normal(512 + i, 12, 64)[:512].swapaxes(0, 1) for i in range(3))
    mask = np.triu(np.full((512, 512), -np.inf, np.float32), 1)
    yield Case(
        "causal attention, 12 heads, 512 tokens",
        lambda: np_attention(q, k, v, mask),
        lambda: ops.attention(q, k, v, causal=True),
    )


def layer_cases() -> Iterator[Case]:
    shapes = dict.fromkeys(("query", "key", "value", "output"), (768, 768))
    shapes |= {"up": (3072, 768), "down": (768, 3072)}
    w = {name: normal(*shape) / np.float32(shape[1] ** 0.5) for name, shape in shapes.items()}
    b = {name: normal(shape[0]) for name, shape in shapes.items()}
    packs = {name: packed(w[name], b[name]) for name in shapes}
    w |= {name: normal(768) for name in ("norm1", "norm2")}
    b |= {name: normal(768) for name in ("norm1", "norm2")}
    for tokens in (16, 128):
        x = normal(tokens, 768)
        yield Case(
            f"BERT-base layer, {tokens} tokens",
            lambda x=x: np_bert_layer(x, w, b),
            lambda x=x: bert_layer(x, packs, w, b),
        )


# --- running and reporting ----------------------------------------------------------------------------------


def start_clean() -> None:
    """NumPy gets the BLAS kernels made for this machine and the same number of threads as qkv.

    OpenBLAS reads its settings once, when it is loaded, hence the new process. OPENBLAS_CORETYPE and
    OPENBLAS_L2_SIZE, where they are set, make it choose other kernels and blocks than its own best guess.
    """
    wanted = {key: str(THREADS) for key in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    clean = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")} | wanted
    if clean != dict(os.environ):
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.numpy_kernels", *sys.argv[1:]], clean)


def setting() -> dict[str, Any]:
    blas = next(
        (p for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas" and "numpy" in p["filepath"]),
        {},
    )
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    info = machine.info()
    return {
        "cpu": info["cpu"],
        "qkv": {"version": info["version"], "isa": info["isa"], "threads": THREADS},
        "numpy": {
            "version": np.__version__,
            "simd": simd.get("found") or simd["baseline"],
            "blas": f"{blas.get('internal_api', 'unknown')} {blas.get('version', '')}".strip(),
            "blas_isa": blas.get("architecture", "unknown"),
            "threads": blas.get("num_threads", "unknown"),
        },
    }


def measure(case: Case, seconds: float) -> Pair:
    np.testing.assert_allclose(case.qkv(), case.numpy(), rtol=1e-4, atol=1e-4, err_msg=case.name)
    return paired(case.numpy, case.qkv, seconds)


def setting_lines(where: dict[str, Any]) -> list[str]:
    qkv, numpy = where["qkv"], where["numpy"]
    return [
        f"float32 · qkv {qkv['version']}: {qkv['isa']}, threads: {qkv['threads']}",
        f"NumPy {numpy['version']}: {numpy['blas']} {numpy['blas_isa']}, threads: {numpy['threads']}",
    ]


def table(results: dict[str, Pair], where: dict[str, Any]) -> Table:
    t = Table(title="\n".join(setting_lines(where)), caption=where["cpu"])
    t.add_column("kernel")
    for column in ("NumPy", "qkv", "speed-up"):
        t.add_column(column, justify="right")
    for name, pair in results.items():
        t.add_row(name, f"{pair.a * 1e6:,.0f} µs", f"{pair.b * 1e6:,.0f} µs", f"{pair.ratio:.1f} ×")
    return t


def picture(results: dict[str, Pair], where: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator

    ordered = sorted(results.items(), key=lambda item: item[1].ratio)
    names, ratios = [name for name, _ in ordered], [pair.ratio for _, pair in ordered]
    figure, axes = plt.subplots(figsize=(9, 0.3 * len(ordered) + 1.4))
    # bars start at equal speed, and as far again means as many times again
    axes.set_xscale("log", base=2)
    colours = ["#d97706" if name.startswith("BERT") else "#2563eb" for name in names]
    bars = axes.barh(names, [r - 1 for r in ratios], left=1, color=colours, height=0.7)
    for bar, ratio in zip(bars, ratios, strict=True):
        middle = bar.get_y() + bar.get_height() / 2
        axes.annotate(
            f"{ratio:.1f}×", (max(ratio, 1), middle), (5, 0), textcoords="offset points", va="center", fontsize=9
        )
    axes.axvline(1, color="#6b7280", linewidth=1)
    axes.set_xlim(min(0.9, *ratios) * 0.95, max(ratios) * 1.25)
    axes.set_ylim(-0.7, len(ordered) - 0.3)
    ticks = [2**i for i in range(int(np.log2(max(ratios))) + 1)]
    axes.set_xticks(ticks, [f"{tick}×" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="both", length=0, labelsize=9)
    axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
    axes.set_title("Times as fast as NumPy", fontsize=12, loc="left", pad=8)
    axes.set_xlabel("\n".join([*setting_lines(where), where["cpu"]]), fontsize=8, color="#6b7280")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.numpy_kernels", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write numpy_kernels.json and .png there")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case (default: 2)")
    args = parser.parse_args()
    start_clean()

    console = Console()
    where = setting()
    cases = [*layer_cases(), *linear_cases(), *attention_cases(), *row_cases()]
    results = {case.name: measure(case, args.seconds) for case in track(cases, "timing", console=console)}
    console.print(table(results, where))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        figures = where | {"seconds": {name: asdict(pair) for name, pair in results.items()}}
        (args.out / "numpy_kernels.json").write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
        picture(results, where, args.out / "numpy_kernels.png")


if __name__ == "__main__":
    main()
