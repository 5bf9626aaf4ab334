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

# What GPT-2 and GPT-J call differently, and the names that other families and transformers have for it.
OPENAI_NAMES = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "max_position_embeddings": "n_positions",
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
