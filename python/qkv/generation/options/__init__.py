"""What a caller may say about a generation: names, values, defaults, and what excludes what."""

from qkv.generation.options.arguments import GenerateArguments
from qkv.generation.options.resolved import Options

__all__ = ["GenerateArguments", "Options"]
