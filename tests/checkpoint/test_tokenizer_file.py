"""load_tokenizer: tokenizer.json, sound and broken."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from qkv.checkpoint import Checkpoint, load_tokenizer
from qkv.errors import CheckpointError


@pytest.fixture
def saved(single: Path) -> dict[str, Any]:
    """A tokenizer.json that pads to 8 and cuts at 3 tokens, parsed."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(length=8)
    tokenizer.enable_truncation(3)
    tokenizer.save(str(single / "tokenizer.json"))
    parsed: dict[str, Any] = json.loads((single / "tokenizer.json").read_text())
    return parsed


def test_neither_pads_nor_cuts(single: Path, saved: dict[str, Any]) -> None:
    assert saved["padding"] is not None
    assert saved["truncation"] is not None
    tokenizer = load_tokenizer(Checkpoint.open(single))
    assert tokenizer is not None
    assert tokenizer.encode("a b c").ids == [1, 2, 0]
    assert tokenizer.encode("a b a b a").ids == [1, 2, 1, 2, 1]


def test_no_tokenizer(single: Path) -> None:
    assert load_tokenizer(Checkpoint.open(single)) is None


BROKEN: dict[str, tuple[Any, str]] = {
    "empty": ("", "not valid JSON"),
    "cut off": ('{"version": "1.0", "mod', "not valid JSON"),
    "a list": ("[]", "holds a list"),
    "no model": ({"model": None}, "not a valid tokenizer"),
    "unknown model": ({"model": {"type": "Magic"}}, "not a valid tokenizer"),
    "vocabulary of strings": ({"model": {"type": "WordLevel", "vocab": {"a": "b"}}}, "not a valid tokenizer"),
    "bad regex": (
        {
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": "(("},
                "behavior": "Isolated",
                "invert": False,
            }
        },
        "not a valid tokenizer",
    ),
    # The rest makes tokenizers panic; the last two would end the process or read out of bounds.
    "bad character map": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        "not a valid tokenizer",
    ),
    "long prefix": (
        {
            "model": {
                "type": "BPE",
                "vocab": {"a": 0, "b": 1, "ab": 2},
                "merges": ["a b"],
                "continuing_subword_prefix": "####",
            }
        },
        "the merge 'a b' does not continue with the prefix '####'",
    ),
    "prefix that splits a character": (
        {
            "model": {
                "type": "BPE",
                "vocab": {"a": 0, "é": 1, "aé": 2},
                "merges": [["a", "é"]],
                "continuing_subword_prefix": "x",
            }
        },
        "does not continue with the prefix 'x'",
    ),
}


@pytest.mark.parametrize(("changes", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_tokenizer(single: Path, saved: dict[str, Any], changes: Any, message: str) -> None:
    content = changes if isinstance(changes, str) else json.dumps({**saved, **changes})
    (single / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tokenizer(Checkpoint.open(single))
    assert "tokenizer.json" in str(caught.value)


@pytest.mark.parametrize("within_a_sequence", [False, True])
def test_character_map_that_leads_out_of_itself(single: Path, saved: dict[str, Any], within_a_sequence: bool) -> None:
    """tokenizers reads it, and panics at the first text."""
    root = 0x7FFFFC00  # the first unit of the trie: its children are far beyond the end
    charsmap = (1024).to_bytes(4, "little") + root.to_bytes(4, "little") + bytes(1020) + b"a\0"
    normalizer: dict[str, Any] = {
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(charsmap).decode(),
    }
    if within_a_sequence:
        normalizer = {"type": "Sequence", "normalizers": [{"type": "NFC"}, normalizer]}
    (single / "tokenizer.json").write_text(json.dumps({**saved, "normalizer": normalizer}))
    with pytest.raises(
        CheckpointError, match=r"tokenizer\.json is not a valid tokenizer: its character map points out"
    ):
        load_tokenizer(Checkpoint.open(single))


def test_bpe_with_a_continuation_prefix_loads(single: Path, saved: dict[str, Any]) -> None:
    model = {
        "type": "BPE",
        "vocab": {"a": 0, "##b": 1, "ab": 2},
        "merges": ["a ##b"],
        "continuing_subword_prefix": "##",
    }
    (single / "tokenizer.json").write_text(json.dumps({**saved, "model": model}))
    tokenizer = load_tokenizer(Checkpoint.open(single))
    assert tokenizer is not None
    assert tokenizer.encode("ab").ids == [2]


def test_tokenizer_link_out_of_the_folder(single: Path, saved: dict[str, Any]) -> None:
    (single / "tokenizer.json").rename(single.parent / "tokenizer.json")
    (single / "tokenizer.json").symlink_to("../tokenizer.json")
    with pytest.raises(CheckpointError, match="outside the checkpoint folder"):
        load_tokenizer(Checkpoint.open(single))
