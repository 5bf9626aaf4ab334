"""Checkpoints as they come from the Hugging Face hub: found, checked, mapped and read.

Nothing in a checkpoint is trusted or executed: safetensors and JSON only, every name, offset and shape is
checked before a byte is read, and bad input raises :class:`qkv.errors.CheckpointError`.
"""

from .checkpoint import Checkpoint
from .config import Config
from .hub import locate
from .pooling import SentenceModules, sentence_modules
from .tensors import TensorInfo
from .tokenizer import load_tokenizer
from .weights import Param, Weights

__all__ = [
    "Checkpoint",
    "Config",
    "Param",
    "SentenceModules",
    "TensorInfo",
    "Weights",
    "load_tokenizer",
    "locate",
    "sentence_modules",
]
