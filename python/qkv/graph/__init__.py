"""Symbolic tensors, what models are written in; fusions; lowering to a program that C++ runs."""

from qkv.graph.build import Graph
from qkv.graph.lower import Lowered, lower
from qkv.graph.rope import Rope
from qkv.graph.tensor import RelativeBias, Tensor

__all__ = ["Graph", "Lowered", "RelativeBias", "Rope", "Tensor", "lower"]
