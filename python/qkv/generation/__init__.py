"""Text from a decoder: sampling, stopping, streaming, and the loop that runs one program per step."""

from qkv.generation.loop import generate
from qkv.generation.options import GenerateArguments, Options
from qkv.generation.result import Generation

__all__ = ["GenerateArguments", "Generation", "Options", "generate"]
