"""Packed models: one file that holds all a model needs, its weights as the kernels read them. See docs/packed.md."""

from qkv.packed.file import PackedFile
from qkv.packed.fingerprint import fingerprint
from qkv.packed.weights import PackedWeights
from qkv.packed.write import write

__all__ = ["PackedFile", "PackedWeights", "fingerprint", "write"]
