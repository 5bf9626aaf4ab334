"""What a model file writes with. Each method checks the checkpoint's tensors against the sizes that the config
promises, and returns a symbolic tensor; nothing is read or computed yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from qkv.checkpoint import Param, Weights
from qkv.graph import tensor as ops
from qkv.graph.experts import experts
from qkv.graph.rope import Rope
from qkv.graph.tensor import Constant, Matrix, Part, RelativeBias, Tensor


class Graph:
    """What one model computes.

    An encoder and a decoder that reads what it found are one graph: tensors that come from an embedding of `source`
    tokens have source rows, and attention whose keys have them is cross-attention.

    Attributes:
        outputs: what a run can be asked for, by name.
    """

    def __init__(self) -> None:
        self.outputs: dict[str, Tensor] = {}
        self._cached = 0
        self._crossed = 0
        self._hidden = {"hidden_states": 0, "encoder_hidden_states": 0}
        self._rotaries: dict[Rope, Tensor] = {}

    def output(self, name: str, x: Tensor) -> None:
        """A run can be asked for `x` by this name."""
        self.outputs[name] = x

    def hidden(self, x: Tensor) -> Tensor:
        """x, which is the next of the model's hidden states: of the embeddings, then of each layer. Source rows are
        those of the encoder."""
        name = "encoder_hidden_states" if x.rows == "source" else "hidden_states"
        self.output(f"{name}.{self._hidden[name]}", x)
        self._hidden[name] += 1
        return x

    def embed(
        self,
        tokens: Weights,
        *,
        vocab_size: int,
        hidden_size: int,
        scale: float = 1.0,
        positions: tuple[Weights, int] | Constant | None = None,
        position_offset: int = 0,
        types: tuple[Weights, int] | None = None,
        source: bool = False,
    ) -> Tensor:
        """Row of each token id, times `scale`, plus that of its position and type where the model has them: (scope,
        rows), or a table that is computed. The tokens are those of the encoder if `source`."""
        if isinstance(positions, tuple):
            table: ops.Table | None = positions[0].param("weight", (positions[1], hidden_size))
        else:
            table = positions
        op = ops.Embed(
            tokens.param("weight", (vocab_size, hidden_size)),
            scale,
            table,
            position_offset,
            types[0].param("weight", (types[1], hidden_size)) if types else None,
        )
        return Tensor(op, (), hidden_size, "source" if source else "tokens")

    def layer_norm(self, x: Tensor, w: Weights, *, eps: float, bias: bool = True) -> Tensor:
        """(x - mean) / sqrt(variance + eps) * weight + bias (Ba, Kiros, Hinton 2016)."""
        shape = (x.width,)
        op = ops.Norm(w.param("weight", shape), w.param("bias", shape) if bias else None, eps, centred=True)
        return Tensor(op, (x,), x.width, x.rows)

    def rms_norm(self, x: Tensor, w: Weights, *, eps: float, head_dim: int | None = None, shift: float = 0.0) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * (weight + shift) (Zhang, Sennrich 2019); of each head on its own if `head_dim`
        is given."""
        weight = w.param("weight", (head_dim or x.width,))
        return Tensor(ops.Norm(weight, None, eps, centred=False, shift=shift), (x,), x.width, x.rows)

    def linear(
        self, x: Tensor, w: Weights, out: int, *, bias: bool, transposed: bool = False, exact: bool = False
    ) -> Tensor:
        """x W^T + b with W [out, in]; [in, out] in the checkpoint when `transposed`. `exact`: in float32 whatever the
        other weights are."""
        return self.linears(x, w, (out,), bias=bias, transposed=transposed, exact=exact)[0]

    def linears(
        self,
        x: Tensor,
        w: Weights,
        widths: Sequence[int],
        *,
        bias: bool,
        transposed: bool = False,
        groups: int = 1,
        exact: bool = False,
        prefix: str = "",
    ) -> list[Tensor]:
        """Several layers that the checkpoint keeps in one matrix, side by side. With `groups` there is one part of
        each layer for the first group, then one of each for the second, and so on: heads, mostly. `prefix` is what
        stands before "weight" and "bias" in the tensors' names."""
        out = sum(widths)
        matrix = Matrix(
            w.param(f"{prefix}weight", (x.width, out) if transposed else (out, x.width)),
            w.param(f"{prefix}bias", (out,)) if bias else None,
            transposed,
        )
        if len(widths) == 1:
            return [Tensor(ops.Linear((matrix,), exact=exact), (x,), out, x.rows)]
        layers, start = [], 0
        for width in widths:
            part = replace(matrix, part=Part(groups, start, width // groups))
            layers.append(Tensor(ops.Linear((part,), exact=exact), (x,), width, x.rows))
            start += width // groups
        return layers

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

    def activate(self, x: Tensor, function: str) -> Tensor:
        """identity, relu, gelu, gelu_tanh, quick_gelu, silu, tanh or sigmoid of every value."""
        return Tensor(ops.Activate(function), (x,), x.width, x.rows)

    def scale(self, x: Tensor, factor: float) -> Tensor:
        """factor * x"""
        return Tensor(ops.Activate("identity", after=factor), (x,), x.width, x.rows)

    def soft_cap(self, x: Tensor, cap: float) -> Tensor:
        """cap tanh(x / cap): x, held between -cap and cap (Gemma 2)."""
        return Tensor(ops.Activate("tanh", before=1 / cap, after=cap), (x,), x.width, x.rows)

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
        rounded_alibi: bool = False,
        relative_bias: RelativeBias | None = None,
    ) -> Tensor:
        """softmax(scale q k^T) v in every head (Vaswani et al. 2017); scale is 1 / sqrt(head_dim) by default.

        Query heads share key/value heads when k is narrower than q (Ainslie et al. 2023). A query sees only keys at
        distances below `window`. A score s becomes soft_cap tanh(s / soft_cap) (Gemma 2); then slope |key - query| of
        its head is subtracted (ALiBi, Press et al. 2022), or the learned bias of the distance added (T5). With
        `rounded_alibi`, what is subtracted is scale (slope query - slope key) of positions from the text's start, where
        slopes, positions and products are each rounded to bfloat16 (Falcon)."""
        heads = q.width // head_dim
        if window is not None and window < 1:
            raise ValueError(f"attention: window {window} hides every key")
        if alibi_slopes is not None and len(alibi_slopes) != heads:
            raise ValueError(f"attention: {len(alibi_slopes)} ALiBi slopes for {heads} heads")
        if rounded_alibi and alibi_slopes is None:
            raise ValueError("attention: rounded ALiBi needs slopes")
        cross = k.rows != q.rows
        if cross and (causal or rope or window or alibi_slopes or relative_bias):
            raise ValueError("attention: positions mean nothing between a decoder's tokens and an encoder's")
        op = ops.Attention(
            heads=heads,
            kv_heads=k.width // head_dim,
            head_dim=head_dim,
            scale=head_dim**-0.5 if scale is None else scale,
            causal=causal,
            layer=self._layer(causal=causal, cross=cross),
            cross=cross,
            window=window,
            soft_cap=soft_cap,
            alibi_slopes=None if alibi_slopes is None else tuple(alibi_slopes),
            rounded_alibi=rounded_alibi,
            relative_bias=relative_bias,
            interleaved=rope is not None and rope.interleaved,
        )
        return Tensor(op, (q, k, v) if rope is None else (q, k, v, self._rotary(rope)), q.width, q.rows)

    def _layer(self, *, causal: bool, cross: bool) -> int | None:
        """The next free place in the cache of keys and values, or in that of the encoder's."""
        if cross:
            self._crossed += 1
            return self._crossed - 1
        if not causal:
            return None
        self._cached += 1
        return self._cached - 1

    def _rotary(self, rope: Rope) -> Tensor:
        """All layers turn by the same angles: one step computes them for a run."""
        if rope not in self._rotaries:
            self._rotaries[rope] = Tensor(ops.Rotary(rope), (), rope.dim)
        return self._rotaries[rope]

    def wanted(self, x: Tensor) -> Tensor:
        """The rows of x that a run wants logits for."""
        return Tensor(ops.Gather(), (x,), x.width, "logits")

    def logits(self, x: Tensor, w: Weights, vocab_size: int, *, bias: Param | None = None) -> Tensor:
        """Scores of all tokens of the vocabulary, for the rows that a run wants them for."""
        return self.scores(x if x.rows == "logits" else self.wanted(x), w, vocab_size, bias=bias)

    def scores(self, x: Tensor, w: Weights, classes: int, *, bias: Param | None) -> Tensor:
        """An output layer, x W^T + b: weights of 4 bits would cost more accuracy here than anywhere else."""
        matrix = Matrix(w.param("weight", (classes, x.width)), bias)
        return Tensor(ops.Linear((matrix,), logits=True), (x,), classes, x.rows)

    def pool(self, x: Tensor, pooling: str) -> Tensor:
        """One row a sequence: the mean or max of its tokens, or the first or last of them."""
        return Tensor(ops.Pool(pooling), (x,), x.width, "sequences")
