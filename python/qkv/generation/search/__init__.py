"""Ways from logits to tokens."""

from qkv.generation.search.base import Feed, Found, Search, Task

__all__ = ["Feed", "Found", "Search", "Task"]
