"""Text from a decoder: searches, stopping, streaming, and the scheduler that runs one program per step."""

from qkv.generation.engine import Engine, Stream, Submitted
from qkv.generation.options import GenerateArguments, Options
from qkv.generation.result import Generation, Speculation, Timings, TokenLogprobs

__all__ = [
    "Engine",
    "GenerateArguments",
    "Generation",
    "Options",
    "Speculation",
    "Stream",
    "Submitted",
    "Timings",
    "TokenLogprobs",
]
