"""What models of an encoder and a decoder share, whatever their layers."""

from __future__ import annotations

from qkv.checkpoint import Weights
from qkv.errors import UnsupportedArchitecture


def embeddings(w: Weights, side: str, *others: str) -> Weights:
    """The table of `side`, "encoder" or "decoder". A table that several share is in the checkpoint once, under any of
    their names; `others` are more of these."""
    other = "decoder" if side == "encoder" else "encoder"
    return w.under(f"{side}.embed_tokens", "shared", f"{other}.embed_tokens", *others)


def refuse_heads(w: Weights, model_type: str, *names: str) -> None:
    """Heads that would be left out in silence.

    Raises:
        qkv.UnsupportedArchitecture: there are tensors under one of these names.
    """
    for name in names:
        if name in w:
            raise UnsupportedArchitecture(f"{model_type} with tensors under {name!r}: this head is not supported")
