"""The reader of sentencepiece model files, against the package that wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2 as protobuf
from tests.checkpoint.older_files import TEXTS, albert_model, llama_model, sentencepiece_model, write
from tokenizers import normalizers

from qkv.checkpoint import Checkpoint, load_tokenizer
from qkv.checkpoint.sentencepiece_model import check_charsmap, read_model
from qkv.errors import CheckpointError

WHERE = Path("spiece.model")


@pytest.mark.parametrize("make", [sentencepiece_model, albert_model, llama_model])
def test_reads_what_the_protobuf_package_reads(make: Any) -> None:
    expected = protobuf.ModelProto.FromString(make())
    model = read_model(make(), WHERE)
    assert [(p.text, p.score, p.kind) for p in model.pieces] == [(p.piece, p.score, p.type) for p in expected.pieces]
    assert model.is_bpe == (expected.trainer_spec.model_type == 2)
    assert model.unknown == expected.trainer_spec.unk_id
    assert model.charsmap == expected.normalizer_spec.precompiled_charsmap
    assert model.dummy_prefix == expected.normalizer_spec.add_dummy_prefix
    assert model.strips == expected.normalizer_spec.remove_extra_whitespaces


def changed(**changes: Any) -> bytes:
    """The model file with fields of its messages set, e.g. ``trainer_spec__model_type=4``."""
    model = protobuf.ModelProto.FromString(sentencepiece_model())
    for path, value in changes.items():
        *parents, name = path.split("__")
        message = model
        for parent in parents:
            message = message.pieces[int(parent[1:])] if parent.startswith("p") else getattr(message, parent)
        setattr(message, name, value)
    return model.SerializeToString()


BROKEN: dict[str, tuple[Any, str]] = {
    "empty": (lambda: b"", "0 of its 0 pieces"),
    "cut off": (lambda: sentencepiece_model()[:-1000], "cut off"),
    "cut off in the pieces": (lambda: sentencepiece_model()[:100], "cut off"),
    "text": (lambda: b"{'a': 1}", "not a sound"),
    "pickle": (lambda: b"\x80\x04\x95\x10\x00\x00", "not a sound"),
    "endless integer": (lambda: b"\x08" + b"\xff" * 20, "more than 64 bits"),
    "words": (lambda: changed(trainer_spec__model_type=3), "type 3; only Unigram"),
    "no unknown": (lambda: changed(p0__type=1), "0 of its 300 pieces"),
    "two unknown": (lambda: changed(p5__type=2), "2 of its 300 pieces"),
    "empty piece": (lambda: changed(p5__piece=""), "lacks its text"),
    "same piece": (lambda: changed(p5__piece="s", p6__piece="s"), "two of its pieces are the same"),
    "infinite score": (lambda: changed(p5__score=float("inf")), "the score of the piece .* is inf"),
    "not a number": (lambda: changed(p5__score=float("nan")), "is nan"),
    "not UTF-8": (lambda: sentencepiece_model().replace("▁".encode(), b"\xff\xfe\xfd", 1), "codec can't decode"),
    "kind": (lambda: sentencepiece_model().replace(b"\0\0\0\0\x18\x02", b"\0\0\0\0\x18\x63", 1), "99 is not a valid"),
    "short character map": (lambda: changed(normalizer_spec__precompiled_charsmap=b"abc"), "cut off"),
    "no trie": (lambda: changed(normalizer_spec__precompiled_charsmap=bytes(8)), "cut off"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken(case: str, tmp_path: Path) -> None:
    make, message = BROKEN[case]
    folder = write(tmp_path, "t5", {"spiece.model": make()})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tokenizer(Checkpoint(folder))
    assert "spiece.model is not a sound sentencepiece model" in str(caught.value)


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nmt_nfkc_cf", "nfkc", "nfkc_cf", "identity", "own"])
def test_sound_character_maps(rule: str, tmp_path: Path) -> None:
    own = tmp_path / "rules.tsv"  # hexadecimal: what is replaced, and by what
    own.write_text("41\t62\n43\t1F642\n")
    options = {"normalization_rule_tsv": str(own)} if rule == "own" else {"normalization_rule_name": rule}
    model = read_model(sentencepiece_model("bpe", 400, hard_vocab_limit=False, **options), WHERE)
    assert bool(model.charsmap) == (rule != "identity")
    if rule == "own":
        assert normalizers.Precompiled(model.charsmap).normalize_str("xAC") == "xb🙂"


def charsmap() -> bytes:
    return read_model(sentencepiece_model(), WHERE).charsmap


def with_unit(index: int, value: int) -> bytes:
    map_ = bytearray(charsmap())
    map_[4 + 4 * index : 8 + 4 * index] = value.to_bytes(4, "little")
    return bytes(map_)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_unit(0, 0x7FFFFC00), "outside itself"),
        (lambda: with_unit(7, 0x600 | 0x4000_0000), "outside itself"),
        (lambda: with_unit(0, 1 << 31), "outside itself"),  # the root is followed, even if it says that it is a value
        (lambda: b"".join((len(charsmap()).to_bytes(4, "little"), charsmap()[4:])), "cut off"),
        (lambda: charsmap()[:-1], "cut off"),
        (lambda: charsmap()[: 4 + int.from_bytes(charsmap()[:4], "little")] + b"a\0", "outside its texts"),
        (lambda: charsmap()[:-2] + b"\xff\0", "codec can't decode"),
    ],
)
def test_broken_character_map(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_charsmap(make())


def test_value_within_a_character() -> None:
    map_ = bytearray(charsmap())
    size = int.from_bytes(map_[:4], "little")
    units, texts = np.frombuffer(charsmap(), "<u4", size // 4, 4), np.frombuffer(charsmap(), np.uint8, offset=4 + size)
    inside = int(np.flatnonzero(texts & 0xC0 == 0x80)[0])
    with pytest.raises(ValueError, match="middle of a character"):
        check_charsmap(with_unit(int(np.flatnonzero(units >> 31)[0]), 1 << 31 | inside))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_character_map_that_passes_never_panics(data: st.DataObject) -> None:
    map_ = bytearray(charsmap())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(4, len(map_) - 1) | st.integers(4, 2000))
        map_[at] = data.draw(st.integers(0, 255))
    try:
        check_charsmap(bytes(map_))
    except ValueError:
        return
    normalizer = normalizers.Precompiled(bytes(map_))
    for text in [*TEXTS, "".join(map(chr, range(1, 0x500)))]:
        assert isinstance(normalizer.normalize_str(text), str)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flipped_bytes(data: st.DataObject) -> None:
    """A file with changed bytes opens or is refused; nothing else happens."""
    file = bytearray(sentencepiece_model())
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, 6000))] = data.draw(st.integers(0, 255))
    try:
        model = read_model(bytes(file), WHERE)
    except CheckpointError:
        return
    assert model.pieces


def test_pieces_that_do_not_fit_the_class(tmp_path: Path) -> None:
    """fairseq's tokens take the place of the first three pieces, here with one that others are merged from."""
    model = protobuf.ModelProto.FromString(llama_model())
    model.pieces[1].type, model.pieces[1].piece = 1, "東"
    model.pieces[2].type, model.pieces[2].piece = 1, "東東"
    folder = write(tmp_path, "xlm-roberta", {"sentencepiece.bpe.model": model.SerializeToString()})
    with pytest.raises(CheckpointError, match=r"sentencepiece\.bpe\.model cannot be used"):
        load_tokenizer(Checkpoint(folder))


def test_sentencepiece_agrees_about_the_pieces() -> None:
    sp = sentencepiece.SentencePieceProcessor(model_proto=llama_model())
    model = read_model(llama_model(), WHERE)
    assert [p.text for p in model.pieces] == [sp.id_to_piece(i) for i in range(len(sp))]
