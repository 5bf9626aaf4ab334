"""Ways from logits to tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qkv.generation.search.base import Feed, Found, Search, Task, Together
from qkv.generation.search.beam import BeamSearch
from qkv.generation.search.contrastive import ContrastiveSearch
from qkv.generation.search.speculation import SpeculativeSearch
from qkv.generation.search.tokens import TokenSearch

if TYPE_CHECKING:
    from qkv.generation.options import Options

__all__ = ["Feed", "Found", "Search", "Task", "Together", "kind_of"]


def kind_of(options: Options) -> type[Search]:
    """The search that a request asks for."""
    if options.assistant_model is not None or options.prompt_lookup_num_tokens is not None:
        return SpeculativeSearch
    if options.num_beams > 1:
        return BeamSearch
    if options.penalty_alpha is not None:
        return ContrastiveSearch
    return TokenSearch
