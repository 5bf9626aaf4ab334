"""What several model files need to read a config."""

from __future__ import annotations

from typing import Any

from qkv.checkpoint import Config
from qkv.errors import UnsupportedArchitecture
from qkv.graph import Rope

# Names in configs -> the functions of kernels.h. Five are one formula, with the steps in different orders.
_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "quick_gelu": "quick_gelu",
    "tanh": "tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
}


def activation(name: str) -> str:
    """The kernel's name of a config's activation.

    Raises:
        qkv.UnsupportedArchitecture: there is no such kernel.
    """
    if name not in _ACTIVATIONS:
        raise UnsupportedArchitecture(
            f"config.json: activation {name!r} is not supported; supported are: {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def plain_rope(config: Config, parameters: dict[str, Any], *, theta: float, dim: int) -> Rope:
    """Rotary positions of a config's rope_parameters (rope_scaling in older ones), with base `theta` unless they name
    one.

    Raises:
        qkv.UnsupportedArchitecture: their type is not "default".
        qkv.CheckpointError: the base is not a positive number.
    """
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default":
        raise UnsupportedArchitecture(f"{config.where}: rope_type {kind!r} is not supported; only 'default' is")
    base = parameters.get("rope_theta", theta)
    is_number = isinstance(base, int | float) and not isinstance(base, bool) and base > 0
    config.require(is_number, f"rope_theta {base!r} is not a positive number")
    config.require(dim % 2 == 0, f"rotary positions turn pairs, but {dim} values of each head")
    return Rope.plain(float(base), dim, interleaved=False)
