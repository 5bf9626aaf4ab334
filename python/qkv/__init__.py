"""Transformer inference on CPUs: own SIMD kernels, Hugging Face checkpoints opened as they are, no PyTorch.

import qkv
model = qkv.load("sentence-transformers/all-MiniLM-L6-v2")   # or any local folder
vectors = model.encode(["A first sentence.", "And a second one."])
"""

from qkv import ops
from qkv.errors import Cancelled, CheckpointError, Error, UnsupportedArchitecture, UnusedSettings, UnusedWeights
from qkv.generation import Engine, Generation
from qkv.loading import load, pack
from qkv.machine import __version__, info, set_isa
from qkv.model import Model
from qkv.planning import plan

__all__ = [
    "Cancelled",
    "CheckpointError",
    "Engine",
    "Error",
    "Generation",
    "Model",
    "UnsupportedArchitecture",
    "UnusedSettings",
    "UnusedWeights",
    "__version__",
    "info",
    "load",
    "ops",
    "pack",
    "plan",
    "set_isa",
]
