"""Text from a decoder: sampling, stopping, streaming, and the loop that runs one program per step."""

from qkv.generation.loop import generate
from qkv.generation.result import Generation

__all__ = ["Generation", "generate"]
