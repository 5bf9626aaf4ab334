"""Symbolic tensors, what models are written in; fusions; lowering to a program that C++ runs."""

from qkv.graph.build import Graph
from qkv.graph.lower import CacheShape, Lowered, lower
from qkv.graph.rope import Beyond, Rope
from qkv.graph.tensor import Constant, RelativeBias, Tensor

__all__ = ["Beyond", "CacheShape", "Constant", "Graph", "Lowered", "RelativeBias", "Rope", "Tensor", "lower"]
