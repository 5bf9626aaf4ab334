"""How fast a model can be at most on this machine, and about how fast it is expected to be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from qkv import _ext
from qkv.bench.kernels import arithmetic
from qkv.graph.tensor import Attention, Experts, Linear, Tensor
from qkv.planning.planner import Outline
from qkv.planning.result import Speed
from qkv.planning.sizes import PlannedWeight

# Shares of the ceilings that whole models reached where docs/images/bench.png was measured (docs/benchmarks.md says
# how). Many tokens: the prompt of GPT-2, 512 tokens. The picture counts attention as work of the weights' type, here it
# is that of keys and values, bfloat16, which was float32's speed there: so its 52 and 49 % with int8 and int4 weights
# are 61 and 58 %.
_MANY_TOKENS = {"float32": 0.82, "bfloat16": 0.78, "int8": 0.61, "int4": 0.58}
# One token: GPT-2 after 64 tokens. Its int8 and int4 weights are partly in the cache there, so theirs are the shares of
# a single layer with weights from memory, 95 and 79 %, times 0.94: what whole models keep of that in the other types.
_ONE_TOKEN = {"float32": 0.90, "bfloat16": 0.83, "int8": 0.89, "int4": 0.74}


@dataclass
class Cost:
    """Of one run: operations in each type of arithmetic, and bytes to read from memory."""

    operations: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    nbytes: float = 0

    def add_layer(self, weight: PlannedWeight, rows: float, read: float = 1.0) -> None:
        """`read`: the share of the weight that is read."""
        self.operations[arithmetic(weight.dtype)] += 2 * rows * weight.out_features * weight.in_features
        self.nbytes += read * weight.nbytes

    def seconds(self, ceilings: Mapping[str, float]) -> float:
        """At least; `ceilings`: operations per second of each type, and bytes per second of "memory"."""
        computing = sum(count / ceilings[kind] for kind, count in self.operations.items())
        return max(computing, self.nbytes / ceilings["memory"])


def prompt_cost(of: Outline, tokens: int) -> Cost:
    """Of a prompt of one sequence, with the logits of its last token; of a source text where an encoder reads one."""
    source = [node for node in of.nodes if node.rows == "source"]
    return _cost(of, source or of.nodes, tokens, past=0)


def token_cost(of: Outline, past: int) -> Cost:
    """Of a token after `past` cached ones, and of as many of the source."""
    return _cost(of, [node for node in of.nodes if node.rows != "source"], 1, past)


def _cost(of: Outline, nodes: Iterable[Tensor], new: int, past: int) -> Cost:
    """Matrices and attention are counted; norms and activations are little work beside them."""
    total = Cost()
    for node in nodes:
        match node.op:
            case Linear() as op:
                total.add_layer(of.packer.size(op), rows=new if node.rows in ("tokens", "source") else 1)
            case Experts() as op:  # tokens spread evenly, and an expert is read when it gets one
                rows = new * op.top_k / len(op.down)
                for layer in (*op.gate_up, *op.down):
                    total.add_layer(of.packer.size(layer), rows, read=min(1.0, rows))
            case Attention() as op:
                pairs = new * past if op.cross else _pairs(op, new, past)
                kind = "bfloat16" if of.lowered.kv_dtype == "bfloat16" else "float32"
                total.operations[kind] += 4 * pairs * op.heads * op.head_dim
                keys = past if op.cross else past + new
                visible = min(keys, op.window + new) if op.window else keys
                page = _ext.page_nbytes(1, op.kv_heads, op.head_dim, of.lowered.kv_dtype)
                total.nbytes += visible * page / _ext.page_tokens
    return total


def speeds(of: Outline, tokens: int, ceilings: Mapping[str, float]) -> tuple[Speed, Speed | None]:
    """Of a prompt of so many tokens, and of the tokens that a decoder makes after it."""

    def speed(count: int, cost: Cost, shares: Mapping[str, float]) -> Speed:
        rate = count / cost.seconds(ceilings)
        return Speed(rate, rate * shares[of.packer.dtype])

    prompt = speed(tokens, prompt_cost(of, tokens), _MANY_TOKENS)
    return prompt, speed(1, token_cost(of, tokens), _ONE_TOKEN) if of.lowered.cache else None


def _pairs(op: Attention, new: int, past: int) -> int:
    """Pairs of a query and a key that it sees."""
    keys = past + new
    window = op.window or keys
    return sum(
        (i + 1 if op.causal else min(keys, i + window)) - max(0, i + 1 - window) for i in range(past, past + new)
    )
