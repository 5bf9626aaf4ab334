"""Which layers see only the tokens nearby."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar

from qkv.checkpoint import Config
from qkv.errors import UnsupportedArchitecture

FULL, SLIDING = "full_attention", "sliding_attention"
# Far above the some hundred of the deepest models; the type of each layer is listed before its tensors are looked for.
_MOST_LAYERS = 2**16


@dataclass(kw_only=True)
class LayerWindows(Config, ABC):
    """Sliding windows of some layers (Beltagy et al. 2020). A subclass says in `default_layer_type` which layers have
    one where the file has no `layer_types`."""

    num_hidden_layers: int
    sliding_window: int | None = 4096
    layer_types: list[str] | None = None

    def check(self) -> None:
        super().check()
        layers = self.num_hidden_layers
        self.require(layers <= _MOST_LAYERS, f"num_hidden_layers is {layers}; expected at most {_MOST_LAYERS}")
        types = self.types_of_layers
        self.require(
            len(types) == self.num_hidden_layers,
            f"layer_types has {len(types)} entries for num_hidden_layers {self.num_hidden_layers}",
        )
        for name in dict.fromkeys(types):
            if name not in (FULL, SLIDING):
                raise UnsupportedArchitecture(
                    f"{self.where}: layer_types has {name!r}; supported are {FULL!r} and {SLIDING!r}"
                )
        self.require(
            self.window is not None or SLIDING not in types,
            f"layer_types has {SLIDING!r}, but sliding_window gives these layers no size",
        )

    @property
    def types_of_layers(self) -> list[str]:
        if self.layer_types is not None:
            return self.layer_types
        return [self.default_layer_type(i) for i in range(self.num_hidden_layers)]

    @property
    def windows(self) -> list[int | None]:
        """Of each layer: a query sees keys at distances below it; None sees them all."""
        return [self.window if name == SLIDING else None for name in self.types_of_layers]

    @property
    def window(self) -> int | None:
        """Of the layers that have one."""
        return self.sliding_window

    @abstractmethod
    def default_layer_type(self, index: int) -> str:
        """Of layer `index`, where the file does not say it."""


@dataclass(kw_only=True)
class UpperWindows(LayerWindows):
    """As Qwen's configs say it: windows from layer `max_window_layers` on, and only if `use_sliding_window`."""

    use_sliding_window: bool = False
    max_window_layers: int = 28
    ZERO_OK: ClassVar[Set[str]] = frozenset({"max_window_layers"})

    @property
    def window(self) -> int | None:
        return self.sliding_window if self.use_sliding_window else None

    def default_layer_type(self, index: int) -> str:
        return SLIDING if self.window is not None and index >= self.max_window_layers else FULL
