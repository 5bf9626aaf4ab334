"""Transformer inference on CPUs: own SIMD kernels, Hugging Face checkpoints opened as they are, no PyTorch.

import qkv
model = qkv.load("sentence-transformers/all-MiniLM-L6-v2")   # or any local folder
vectors = model.encode(["A first sentence.", "And a second one."])
"""

from typing import TYPE_CHECKING, Any

from qkv import ops
from qkv.errors import Cancelled, CheckpointError, Error, UnsupportedArchitecture, UnusedSettings, UnusedWeights
from qkv.loading import load, pack
from qkv.machine import __version__, info, set_isa
from qkv.model import Model
from qkv.planning import plan

if TYPE_CHECKING:
    from qkv.generation import Engine, Generation

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


def __getattr__(name: str) -> Any:
    """What writes text is imported when it is first asked for: a third of the time that `import qkv` would take."""
    if name in ("Engine", "Generation"):
        import qkv.generation

        return getattr(qkv.generation, name)
    raise AttributeError(f"module 'qkv' has no attribute {name!r}")
