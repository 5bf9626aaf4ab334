"""Where a decoder's output layer is in its checkpoint."""

from __future__ import annotations

from qkv.checkpoint import Weights


def output_layer(root: Weights, embeddings: Weights, *, tied: bool) -> Weights | None:
    """The scope of the matrix that makes logits: that of the token embeddings if `tied`. None for a base model that was
    saved on its own (for embeddings of texts, mostly): its tensors are not below "model." and it has no such layer."""
    if tied:
        return embeddings
    return root["lm_head"] if "lm_head" in root or "model" in root else None
