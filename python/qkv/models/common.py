"""What several model files need to read a config."""

from __future__ import annotations

from qkv.errors import UnsupportedArchitecture

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
