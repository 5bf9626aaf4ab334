"""Tensors of a checkpoint that a model does not use."""

from __future__ import annotations

import re

import numpy as np

from qkv.checkpoint.checkpoint import Checkpoint

_SHOWN = 8

# Not weights, whatever their shape, unless a model asks for them: what it counts or computes itself (sinusoidal
# positions are saved as embed_positions), a matrix that T5 had and never used, and what BERT's next-sentence prediction
# (ALBERT's sentence order) has, which comes with checkpoints of every other task.
_NEVER_WEIGHTS = re.compile(
    r"(^|\.)(position_ids|token_type_ids|num_batches_tracked|rotary_emb\.(inv_freq|cos_cached|sin_cached)"
    r"|embed_positions\.weight|EncDecAttention\.relative_attention_bias\.weight"
    r"|(pooler|pooler\.dense|seq_relationship|sop_classifier\.classifier)\.(weight|bias))$"
)
# Causal masks of GPT-2, GPT-Neo and GPT-NeoX, and the score of a masked position.
_MASK = re.compile(r"(^|\.)(attn|attention)\.(bias|masked_bias)$")
# Names of one matrix that has several: token embeddings, and the output layer that is tied to them.
_TIED = re.compile(
    r"(^|\.)(lm_head|lm_head\.decoder|predictions\.decoder|vocab_projector|embed_out|embed_tokens|shared)\.(weight|bias)$"
)
# Ends of names that mean nothing where a tensor with the other end is used: untied output layers and embeddings.
_SUPERSEDED = ((".bias", ".decoder.bias"), ("shared.weight", "decoder.embed_tokens.weight"))


def unused_weights(checkpoint: Checkpoint) -> list[str]:
    """The names of weights that no `Weights.param` was made of, sorted.

    Left out: buffers that are no weights, and copies of weights that are used (tied embeddings)."""
    unused = (name for name in checkpoint.names if name not in checkpoint.used)
    return [name for name in unused if not (_is_buffer(checkpoint, name) or _is_copy(checkpoint, name))]


def describe_unused(checkpoint: Checkpoint, names: list[str]) -> str:
    """A sentence or two for people."""
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return (
        f"{checkpoint.path}: {len(names)} of {len(checkpoint.names)} tensors are not used: {shown}. "
        "That is to be expected of the head of another task; otherwise config.json does not describe these weights"
    )


def _is_buffer(checkpoint: Checkpoint, name: str) -> bool:
    if _NEVER_WEIGHTS.search(name):
        return True
    shape = checkpoint.tensors[name].shape
    is_mask = shape == () or (len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3])
    return is_mask and bool(_MASK.search(name))


def _is_copy(checkpoint: Checkpoint, name: str) -> bool:
    """Whether it says again what a tensor of the same shape says that is used: an output layer that is tied."""
    for end, other in _SUPERSEDED:
        if name.endswith(end) and name.removesuffix(end) + other in checkpoint.used:
            return True
    info = checkpoint.tensors[name]
    if not _TIED.search(name):
        return False
    twins = [
        other
        for other in checkpoint.used
        if (twin := checkpoint.tensors[other]).shape == info.shape and twin.dtype == info.dtype
    ]
    if not twins:
        return False
    values = checkpoint.raw(name)
    same = any(np.array_equal(values, checkpoint.raw(twin)) for twin in twins)
    checkpoint.release(name)
    return same
