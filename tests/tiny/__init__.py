"""Tiny random checkpoints, made with transformers; awkward sizes on purpose: nothing is a multiple of a vector.

`python -m tests.tiny FOLDER` makes all of them, for tests that run where there is no transformers.
"""

from __future__ import annotations

from pathlib import Path

from tests.tiny import encoders, falcon, gemma, gpt, llama, mixtures, seq2seq
from tests.tiny.case import Case

CASES: dict[str, Case] = (
    encoders.CASES | falcon.CASES | gemma.CASES | gpt.CASES | llama.CASES | mixtures.CASES | seq2seq.CASES
)


def make_tiny(case: str, folder: Path) -> Path:
    """Writes the case's checkpoint to `folder`."""
    CASES[case].make().save_pretrained(folder)
    return folder
