"""What a model file writes with. Each method checks the checkpoint's tensors against the sizes that the config
promises, and returns a symbolic tensor; nothing is read or computed yet."""

from __future__ import annotations

from collections.abc import Sequence

from qkv.checkpoint import Weights
from qkv.graph import tensor as ops
from qkv.graph.experts import experts
from qkv.graph.rope import Rope
from qkv.graph.tensor import Matrix, RelativeBias, Tensor


class Graph:
    def __init__(self) -> None:
        self.outputs: dict[str, Tensor] = {}
        self._attentions = 0
        self._rotaries: dict[Rope, Tensor] = {}

    def output(self, name: str, x: Tensor) -> None:
        """A run can be asked for `x` by this name."""
        self.outputs[name] = x

    def embed(
        self,
        tokens: Weights,
        *,
        vocab_size: int,
        hidden_size: int,
        positions: tuple[Weights, int] | None = None,
        position_offset: int = 0,
        types: tuple[Weights, int] | None = None,
    ) -> Tensor:
        """Row of each token id, plus that of its position and type where the model has them: (scope, rows)."""
        op = ops.Embed(
            tokens.param("weight", (vocab_size, hidden_size)),
            positions[0].param("weight", (positions[1], hidden_size)) if positions else None,
            position_offset,
            types[0].param("weight", (types[1], hidden_size)) if types else None,
        )
        return Tensor(op, (), hidden_size)

    def layer_norm(self, x: Tensor, w: Weights, *, eps: float) -> Tensor:
        """(x - mean) / sqrt(variance + eps) * weight + bias (Ba, Kiros, Hinton 2016)."""
        shape = (x.width,)
        return Tensor(ops.Norm(w.param("weight", shape), w.param("bias", shape), eps, True), (x,), x.width, x.rows)

    def rms_norm(self, x: Tensor, w: Weights, *, eps: float) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * weight (Zhang, Sennrich 2019)."""
        return Tensor(ops.Norm(w.param("weight", (x.width,)), None, eps, False), (x,), x.width, x.rows)

    def linear(
        self, x: Tensor, w: Weights, out: int, *, bias: bool, transposed: bool = False, exact: bool = False
    ) -> Tensor:
        """x W^T + b with W [out, in]; [in, out] in the checkpoint when `transposed`. `exact`: in float32 whatever the
        other weights are."""
        shape = (x.width, out) if transposed else (out, x.width)
        matrix = Matrix(w.param("weight", shape), w.param("bias", (out,)) if bias else None, transposed)
        return Tensor(ops.Linear((matrix,), exact=exact), (x,), out, x.rows)

    def experts(
        self,
        x: Tensor,
        router_logits: Tensor,
        w: Weights,
        *,
        inner: int,
        names: tuple[str, str, str],
        activation: str,
        top_k: int,
    ) -> Tensor:
        """Of each token the sum over its `top_k` likeliest experts of p * down(activation(gate(x)) * up(x)), with
        p = softmax(router_logits) scaled to a sum of 1 over these experts (Mixtral, Jiang et al. 2024).

        names: of an expert's gate [inner, x.width], up, and down [x.width, inner]."""
        layers = experts(w, router_logits.width, x.width, inner, names, activation)
        op = ops.Experts(tuple(gate_up for gate_up, _ in layers), tuple(down for _, down in layers), top_k)
        return Tensor(op, (x, router_logits), x.width, x.rows)

    def split(self, x: Tensor, parts: int) -> list[Tensor]:
        """`parts` tensors of equal width, side by side in x."""
        width = x.width // parts
        return [Tensor(ops.Slice(i * width), (x,), width, x.rows) for i in range(parts)]

    def activate(self, x: Tensor, function: str) -> Tensor:
        """identity, relu, gelu, gelu_tanh or silu of every value."""
        return Tensor(ops.Activate(function), (x,), x.width, x.rows)

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        head_dim: int,
        causal: bool,
        rope: Rope | None = None,
        scale: float | None = None,
        window: int | None = None,
        soft_cap: float | None = None,
        alibi_slopes: Sequence[float] | None = None,
        relative_bias: RelativeBias | None = None,
    ) -> Tensor:
        """softmax(scale q k^T) v in every head (Vaswani et al. 2017); scale is 1 / sqrt(head_dim) by default.

        Query heads share key/value heads when k is narrower than q (Ainslie et al. 2023). A query sees only keys at
        distances below `window`. A score s becomes soft_cap tanh(s / soft_cap) (Gemma 2); then slope |key - query| of
        its head is subtracted (ALiBi, Press et al. 2022), or the learned bias of the distance added (T5)."""
        heads = q.width // head_dim
        if window is not None and window < 1:
            raise ValueError(f"attention: window {window} hides every key")
        if alibi_slopes is not None and len(alibi_slopes) != heads:
            raise ValueError(f"attention: {len(alibi_slopes)} ALiBi slopes for {heads} heads")
        op = ops.Attention(
            heads=heads,
            kv_heads=k.width // head_dim,
            head_dim=head_dim,
            scale=head_dim**-0.5 if scale is None else scale,
            causal=causal,
            layer=self._attentions,
            window=window,
            soft_cap=soft_cap,
            alibi_slopes=None if alibi_slopes is None else tuple(alibi_slopes),
            relative_bias=relative_bias,
        )
        self._attentions += 1
        return Tensor(op, (q, k, v) if rope is None else (q, k, v, self._rotary(rope)), q.width)

    def _rotary(self, rope: Rope) -> Tensor:
        """All layers turn by the same angles: one step computes them for a run."""
        if rope not in self._rotaries:
            self._rotaries[rope] = Tensor(ops.Rotary(rope.inverse_frequencies()), (), rope.dim)
        return self._rotaries[rope]

    def logits(self, x: Tensor, w: Weights, vocab_size: int) -> Tensor:
        """Scores of the next token, for the rows that a run wants them for."""
        wanted = Tensor(ops.Gather(), (x,), x.width, "logits")
        matrix = Matrix(w.param("weight", (vocab_size, x.width)), None)
        return Tensor(ops.Linear((matrix,), logits=True), (wanted,), vocab_size, "logits")

    def pool(self, x: Tensor, pooling: str) -> Tensor:
        """One row a sequence: the mean or max of its tokens, or the first or last of them."""
        return Tensor(ops.Pool(pooling), (x,), x.width, "sequences")
