"""Vocabularies and their companions that are broken: an error that names the file, never a crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.checkpoint.older_files import byte_level, sentencepiece_model, t5_model, vocab_txt, write

from qkv.checkpoint import Checkpoint, load_tokenizer
from qkv.errors import CheckpointError

CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"


def vocabulary(**changes: Any) -> dict[str, Any]:
    return {**json.loads(byte_level()["vocab.json"]), **changes}


def marian(**changes: Any) -> dict[str, Any]:
    pieces = ["</s>", "<unk>", "▁", "s", "t", "<pad>"]
    files = {"source.spm": sentencepiece_model(), "vocab.json": {text: i for i, text in enumerate(pieces)}}
    return {**files, **changes}


def gpt2(**changes: Any) -> dict[str, Any]:
    return {**byte_level(), **{name.replace("_json", ".json"): value for name, value in changes.items()}}


def decoder(index: str, content: Any) -> dict[str, Any]:
    return {"added_tokens_decoder": {index: {"content": content}}}


BROKEN: dict[str, tuple[str, Any, str]] = {
    "list": ("gpt2", lambda: gpt2(vocab_json=["a"]), r"vocab\.json holds a list"),
    "cut off": ("gpt2", lambda: gpt2(vocab_json='{"a": 0, '), r"vocab\.json is not valid JSON"),
    "empty": ("gpt2", lambda: gpt2(vocab_json={}), r"vocab\.json holds 0 pieces"),
    "text as id": ("gpt2", lambda: gpt2(vocab_json=vocabulary(xyz="1")), r"vocab\.json: the piece 'xyz' has id '1'"),
    "true as id": ("gpt2", lambda: gpt2(vocab_json={"a": True}), r"the piece 'a' has id True"),
    "negative": ("gpt2", lambda: gpt2(vocab_json=vocabulary(xyz=-1)), r"has id -1; expected each of 0 to 500 once"),
    "gap": ("gpt2", lambda: gpt2(vocab_json=vocabulary(xyz=600)), r"has id 600; expected each of 0 to 500 once"),
    "twice": ("gpt2", lambda: gpt2(vocab_json=vocabulary(xyz=5)), r"has id 5; expected"),
    "huge": ("gpt2", lambda: gpt2(vocab_json=vocabulary(xyz=2**70)), "expected each of 0 to 500 once"),
    "half a character": ("gpt2", lambda: gpt2(vocab_json='{"\\ud800": 0}', **{"merges.txt": ""}), "does not fit"),
    "one piece": ("gpt2", lambda: gpt2(**{"merges.txt": "#version: 0.2\nab\n"}), r"merges\.txt: line 2 is 'ab'"),
    "three pieces": ("gpt2", lambda: gpt2(**{"merges.txt": "a b c"}), r"merges\.txt: line 1 is 'a b c'"),
    "unknown merge": ("gpt2", lambda: gpt2(**{"merges.txt": "q 東"}), r"merges\.txt does not fit vocab\.json"),
    "merges not UTF-8": ("gpt2", lambda: gpt2(**{"merges.txt": b"\xff a"}), r"merges\.txt is not UTF-8"),
    "vocab.txt not UTF-8": ("bert", lambda: {"vocab.txt": b"[UNK]\n\xff\n"}, r"vocab\.txt is not UTF-8"),
    "no [UNK]": ("bert", lambda: {"vocab.txt": "[CLS]\n[SEP]\n"}, r"no special token '\[UNK\]'"),
    "empty vocab.txt": ("bert", lambda: {"vocab.txt": ""}, r"no special token '\[UNK\]'"),
    "no source pieces": ("marian", lambda: marian(**{"source.spm": b"junk"}), r"source\.spm is not a sound"),
    "no <unk>": ("marian", lambda: marian(**{"vocab.json": {"a": 0}}), r"vocab\.json lacks '<unk>'"),
    "config is a list": ("gpt2", lambda: gpt2(**{CONFIG: []}), r"tokenizer_config\.json holds a list"),
    "flag": ("bert", lambda: {"vocab.txt": vocab_txt(), CONFIG: {"do_lower_case": "yes"}}, "do_lower_case is 'yes'"),
    "extra_ids": ("t5", lambda: {"spiece.model": t5_model(), CONFIG: {"extra_ids": 1.5}}, "extra_ids is 1.5"),
    "many extra_ids": (
        "t5",
        lambda: {"spiece.model": t5_model(), CONFIG: {"extra_ids": 10**9}},
        "extra_ids is 10+; expected an integer from 0",
    ),
    "token is a number": ("gpt2", lambda: gpt2(**{CONFIG: {"pad_token": 3}}), "found 3 where an object"),
    "token without content": ("gpt2", lambda: gpt2(**{CONFIG: {"pad_token": {"lstrip": True}}}), "is no token"),
    "half a token": ("gpt2", lambda: gpt2(**{CONFIG: '{"pad_token": "\\udfff"}'}), "is no token"),
    "map is a list": ("gpt2", lambda: gpt2(**{MAP: []}), r"special_tokens_map\.json holds a list"),
    "extra tokens": ("gpt2", lambda: gpt2(**{CONFIG: {"additional_special_tokens": "x"}}), "expected a list of tokens"),
    "added gap": ("gpt2", lambda: gpt2(**{ADDED: {"<new>": 999}}), r"added_tokens\.json.*has id 999.*make it 500"),
    "added in the vocabulary": ("gpt2", lambda: gpt2(**{ADDED: {"<pad>": 500}}), r"'<pad>' has id 500.*make it 1"),
    "added without id": ("gpt2", lambda: gpt2(**{ADDED: {"<new>": None}}), "None is no token id"),
    "decoder": ("gpt2", lambda: gpt2(**{CONFIG: {"added_tokens_decoder": [1]}}), r"found \[1\] where an object"),
    "decoder id": ("gpt2", lambda: gpt2(**{CONFIG: decoder("x", "<new>")}), "'x' is no token id"),
    "decoder token": ("gpt2", lambda: gpt2(**{CONFIG: decoder("500", 7)}), "is no token; expected its text"),
    "decoder gap": ("gpt2", lambda: gpt2(**{CONFIG: decoder("900", "<new>")}), r"tokenizer_config\.json.*has id 900"),
    "no eos": ("t5", lambda: {"spiece.model": t5_model(), CONFIG: {"eos_token": None}}, "special token .eos_token"),
    "no bos": (
        "camembert",
        lambda: {"sentencepiece.bpe.model": sentencepiece_model(), CONFIG: {"bos_token": None}},
        "needs a special token .bos_token",
    ),
    "no cls": ("bert", lambda: {"vocab.txt": vocab_txt(), CONFIG: {"cls_token": None}}, "special token .cls_token"),
    "no sep": ("gpt2", lambda: gpt2(**{CONFIG: {"tokenizer_class": "RobertaTokenizer", "sep_token": None}}), "needs a"),
    "odd token": ("t5", lambda: {"spiece.model": t5_model(), CONFIG: {"eos_token": "a:b"}}, "cannot stand around"),
    "token of a number": ("gpt2", lambda: gpt2(**{ADDED: {"<new>": 500.0}}), r"500\.0 is no token id"),
    "language": (
        "mbart",
        lambda: {"sentencepiece.bpe.model": sentencepiece_model(), CONFIG: {"src_lang": "xx"}},
        "no special token 'xx'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken(case: str, tmp_path: Path) -> None:
    model_type, files, message = BROKEN[case]
    folder = write(tmp_path, model_type, files())
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tokenizer(Checkpoint(folder))
    assert str(folder) in str(caught.value)


def test_a_model_without_pieces(tmp_path: Path) -> None:
    only_unknown = b"\n\x09\n\x05<unk>\x18\x02"
    folder = write(tmp_path, "marian", marian(**{"source.spm": only_unknown}))
    tokenizer = load_tokenizer(Checkpoint(folder))
    assert tokenizer is not None
    assert tokenizer.encode("st東").tokens == ["▁", "s", "t", "東", "</s>"]
    assert tokenizer.encode("st東").ids == [2, 3, 4, 1, 0]


@pytest.mark.parametrize("name", ["vocab.txt", "spiece.model"])
def test_links_out_of_the_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "outside").write_text("[UNK]\n")
    folder = write(tmp_path / "inside", "bert" if name == "vocab.txt" else "t5", {})
    (folder / name).symlink_to("../outside")
    with pytest.raises(CheckpointError, match="outside the checkpoint folder"):
        load_tokenizer(Checkpoint(folder))
