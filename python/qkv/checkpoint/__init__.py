"""Checkpoints as they come from the Hugging Face hub: found, checked, mapped and read.

Nothing in a checkpoint is trusted or executed: safetensors and JSON only, every name, offset and shape is
checked before a byte is read, and bad input raises :class:`qkv.errors.CheckpointError`.
"""

from qkv.checkpoint.checkpoint import Checkpoint
from qkv.checkpoint.config import Config
from qkv.checkpoint.hub import locate
from qkv.checkpoint.pooling import SentenceModules, sentence_modules
from qkv.checkpoint.tensors import TensorInfo
from qkv.checkpoint.tokenizer import load_tokenizer
from qkv.checkpoint.unused import describe_unused, unused_weights
from qkv.checkpoint.weights import Param, TensorSource, Weights

__all__ = [
    "Checkpoint",
    "Config",
    "Param",
    "SentenceModules",
    "TensorInfo",
    "TensorSource",
    "Weights",
    "describe_unused",
    "load_tokenizer",
    "locate",
    "sentence_modules",
    "unused_weights",
]
