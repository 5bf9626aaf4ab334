"""Attention heads whose queries share keys and values, as configs describe them."""

from __future__ import annotations

from dataclasses import dataclass

from qkv.checkpoint import Config


@dataclass(kw_only=True)
class GroupedHeads(Config):
    """Grouped-query attention (Ainslie et al. 2023). After `check`, `num_key_value_heads` and `head_dim` are set; where
    the file has none there is a key/value head for each query head, and heads split `hidden_size`."""

    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int = 0

    def check(self) -> None:
        super().check()
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        self.require_divisible("num_attention_heads", "num_key_value_heads")
        if self.head_dim == 0:
            self.require_divisible("hidden_size", "num_attention_heads")
            self.head_dim = self.hidden_size // self.num_attention_heads

    @property
    def widths(self) -> dict[str, int]:
        """Of the projections to queries, keys and values."""
        assert self.num_key_value_heads
        shared = self.num_key_value_heads * self.head_dim
        return {"q": self.num_attention_heads * self.head_dim, "k": shared, "v": shared}
