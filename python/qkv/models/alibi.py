"""ALiBi, attention with linear biases (Press, Smith, Lewis 2022): positions have no embedding; instead each score is
lowered in proportion to the distance of its key."""

from __future__ import annotations

from qkv.checkpoint import Config

_MOST_HEADS = 2**16


def check_heads(config: Config, name: str) -> None:
    """Raise CheckpointError where field `name` is a number of heads that no list of slopes is made for."""
    heads = getattr(config, name)
    config.require(heads <= _MOST_HEADS, f"{name} is {heads}; with ALiBi at most {_MOST_HEADS}")


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """Penalty for a distance of one, in each head.

    2^(-8 i / heads) for i = 1 ... heads if `heads` is a power of two (section 3 of the paper). Other counts take those
    of the power of two below, then every other one of the power above (`get_slopes` in the authors' code)."""
    below = 1 << (heads.bit_length() - 1)
    return (*_geometric(below), *_geometric(2 * below)[::2][: heads - below])


def _geometric(heads: int) -> list[float]:
    return [2.0 ** (-8 * i / heads) for i in range(1, heads + 1)]
