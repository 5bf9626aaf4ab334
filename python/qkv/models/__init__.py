"""The architectures, one file each, named after the `model_type` of their checkpoints.

A model file has a `Config` dataclass in the checkpoint's spelling and `build(g, config, w)`, which wires the graph:
the order of norms, attention, feed-forward layers and residuals that makes the architecture is written out there.
`build` returns what embeddings of texts are pooled from; where a decoder reads an encoder, the encoder's last hidden
states, which have source rows and are not."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from qkv.errors import UnsupportedArchitecture

SUPPORTED = (
    "albert",
    "bart",
    "bert",
    "bloom",
    "camembert",
    "distilbert",
    "falcon",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "llama",
    "marian",
    "mbart",
    "mistral",
    "mixtral",
    "phi3",
    "qwen2",
    "qwen3",
    "roberta",
    "starcoder2",
    "t5",
    "transformer",
    "xlm-roberta",
)
# Other names of an architecture, some of them of old files.
ALIASES = {"RefinedWeb": "falcon", "RefinedWebModel": "falcon", "ministral": "mistral"}


def architecture(model_type: object, where: str) -> ModuleType:
    """The module of a `model_type`; `where` is the config file, for the message.

    Raises:
        qkv.UnsupportedArchitecture: there is none; the message lists what there is.
    """
    name = ALIASES.get(model_type, model_type) if isinstance(model_type, str) else None
    if name not in SUPPORTED:
        raise UnsupportedArchitecture(
            f"{where}: model_type {model_type!r} is not supported; supported are: {', '.join(SUPPORTED)}"
        )
    return import_module(f"qkv.models.{name.replace('-', '_')}")
