"""The extension module: kernels and program executor. Arrays are NumPy's; sizes are checked, and `qkv.Error` is
raised when they do not fit."""

from collections.abc import Sequence
from typing import TypedDict, final

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

# --- instruction sets -------------------------------------------------------------------------------------------

class Isa(TypedDict):
    isa: str
    panel: int  # columns of a weight panel
    lanes: int  # float32 lanes of a vector
    bf16_dot: bool  # bfloat16 products are single instructions

page_tokens: int
"""Positions of a KV page."""

def available_isas() -> list[str]:
    """Instruction sets this machine can run, best last."""

def choose_isa(name: str) -> None:
    """Use this instruction set for what is built from now on."""

def chosen_isa() -> Isa: ...

# --- weights ----------------------------------------------------------------------------------------------------

