"""CamemBERT (Martin et al. 2019): RoBERTa, trained on French."""

from __future__ import annotations

from qkv.models import roberta
from qkv.models.roberta import build

__all__ = ["Config", "build"]


class Config(roberta.Config):
    """RoBERTa's fields."""
