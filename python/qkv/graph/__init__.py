"""Symbolic tensors, what models are written in; fusions; lowering to a program that C++ runs."""

from qkv.graph.build import Graph
from qkv.graph.lower import CacheShape, Lowered, lower
from qkv.graph.rope import Rope
from qkv.graph.tensor import Constant, RelativeBias, Tensor

__all__ = ["CacheShape", "Constant", "Graph", "Lowered", "RelativeBias", "Rope", "Tensor", "lower"]
