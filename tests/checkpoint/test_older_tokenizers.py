"""Tokenizers from the files that came before tokenizer.json, against transformers on the same files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from tests.checkpoint.older_files import (
    TEXTS,
    albert_model,
    byte_level,
    llama_model,
    sentencepiece_model,
    sentences,
    t5_model,
    train_sentencepiece,
    vocab_txt,
    write,
)
from tokenizers import Tokenizer

import qkv
from qkv.checkpoint import Checkpoint, load_tokenizer
from qkv.errors import UnsupportedArchitecture


def ours(folder: Path) -> Tokenizer:
    tokenizer = load_tokenizer(Checkpoint(folder))
    assert tokenizer is not None
    return tokenizer


def flagged(content: str, **flags: bool) -> dict[str, Any]:
    return {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": False, **flags}


CONFIG = "tokenizer_config.json"
LLAMA = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
OPT = {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "bos_token": "</s>", "unk_token": "</s>"}

# model_type, files, texts besides TEXTS
CASES: dict[str, tuple[str, Any, list[str]]] = {
    "bert": ("bert", lambda: {"vocab.txt": vocab_txt()}, ["a [MASK] b", "[CLS] x [SEP]", "[pad]"]),
    "bert-cased": (
        "bert",
        lambda: {
            "vocab.txt": vocab_txt(),
            CONFIG: {"do_lower_case": False, "tokenize_chinese_chars": False, "strip_accents": True},
        },
        [],
    ),
    "bert-windows-lines": ("bert", lambda: {"vocab.txt": vocab_txt().replace("\n", "\r\n")}, []),
    "distilbert-added": (
        "distilbert",
        lambda: {
            "vocab.txt": vocab_txt(),
            CONFIG: {"tokenizer_class": "DistilBertTokenizerFast", "additional_special_tokens": ["<new2>"]},
            "added_tokens.json": {"<new>": 400, "<new2>": 401},
            "special_tokens_map.json": {"pad_token": "[PAD]"},
        },
        ["x <new> y<NEW><new2>"],
    ),
    "bert-added-decoder": (
        "bert",
        lambda: {
            "vocab.txt": vocab_txt(),
            CONFIG: {
                "added_tokens_decoder": {
                    "400": {"content": "[Entity]", "lstrip": True, "normalized": False, "special": True},
                    "401": {"content": "word", "normalized": True, "single_word": True},
                },
                "special_tokens_map.json": {"cls_token": "ignored"},
            },
        },
        ["a [Entity] b words word"],
    ),
    "mpnet": ("mpnet", lambda: {"vocab.txt": vocab_txt()}, []),
    "gpt2": ("gpt2", byte_level, ["a<|endoftext|>b"]),
    "gpt2-bos": (
        "gpt2",
        lambda: byte_level() | {CONFIG: {"add_bos_token": True, "pad_token": "[PAD]", "add_prefix_space": True}},
        ["a<|endoftext|>b[PAD]"],
    ),
    "gpt2-without-bos": (
        "gpt2",
        lambda: byte_level() | {CONFIG: {"bos_token": None, "add_bos_token": True, "add_eos_token": True}},
        [],
    ),
    "gpt_neo": ("gpt_neo", byte_level, []),
    "gptj": ("gptj", byte_level, []),
    "opt": ("opt", lambda: byte_level() | {CONFIG: OPT}, ["</s>a"]),
    "roberta": ("roberta", byte_level, ["<s>a</s>"]),
    "roberta-prefix": ("roberta", lambda: byte_level() | {CONFIG: {"add_prefix_space": True}}, []),
    "bart-mask": (
        "bart",
        lambda: byte_level() | {"special_tokens_map.json": {"mask_token": flagged("<mask>", lstrip=True)}},
        ["a <mask> b"],
    ),
    "t5": ("t5", lambda: {"spiece.model": t5_model()}, ["x <extra_id_0> y</s>", "<extra_id_99>"]),
    "mt5-no-sentinels": ("mt5", lambda: {"spiece.model": t5_model(), CONFIG: {"extra_ids": 0}}, []),
    "albert": ("albert", lambda: {"spiece.model": albert_model()}, ["[CLS] a"]),
    "albert-cased": (
        "albert",
        lambda: {"spiece.model": albert_model(), CONFIG: {"do_lower_case": False, "keep_accents": True}},
        [],
    ),
    "xlm-roberta": (
        "xlm-roberta",
        lambda: {"sentencepiece.bpe.model": sentencepiece_model(), CONFIG: {"mask_token": flagged("<mask>")}},
        ["<s> a </s>", "a <mask> b"],
    ),
    "camembert": ("camembert", lambda: {"sentencepiece.bpe.model": sentencepiece_model()}, ["a <mask> b"]),
    "llama": ("llama", lambda: {"tokenizer.model": llama_model(), CONFIG: LLAMA}, ["a<s>b </s> c"]),
    "llama-legacy-eos": (
        "llama",
        lambda: {"tokenizer.model": llama_model(), CONFIG: {**LLAMA, "legacy": True, "add_eos_token": True}},
        ["a<s>b </s> c"],
    ),
    "llama-no-bos": (
        "llama",
        lambda: {"tokenizer.model": llama_model(), CONFIG: {**LLAMA, "add_bos_token": False}},
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_same_as_transformers(case: str, tmp_path: Path) -> None:
    model_type, files, more = CASES[case]
    folder = write(tmp_path, model_type, files())
    theirs, tokenizer = transformers.AutoTokenizer.from_pretrained(folder), ours(folder)
    assert tokenizer.get_vocab() == theirs.get_vocab()
    for text in [*TEXTS, *more, *sentences()[:50]]:
        ids = tokenizer.encode(text).ids
        assert ids == theirs(text).input_ids, text
        pair = theirs(text, "and its pair", return_token_type_ids=True)
        encoding = tokenizer.encode(text, "and its pair")
        assert encoding.ids == pair.input_ids, text
        assert encoding.type_ids == pair.token_type_ids, text
        assert tokenizer.encode(text, add_special_tokens=False).ids == theirs(text, add_special_tokens=False).input_ids
        for skip in (True, False):
            decoded = theirs.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert tokenizer.decode(ids, skip_special_tokens=skip) == decoded, text


@pytest.mark.parametrize("lang", ["fr_XX", None])
@pytest.mark.parametrize("many", [False, True])
def test_mbart_is_sentencepiece_one_up(many: bool, lang: str | None, tmp_path: Path) -> None:
    """transformers 5 leaves out the model file's normalisation here, so sentencepiece itself is asked."""
    config = {"tokenizer_class": "MBart50Tokenizer" if many else "MBartTokenizer", "src_lang": lang}
    folder = write(tmp_path, "mbart", {"sentencepiece.bpe.model": sentencepiece_model(), CONFIG: config})
    tokenizer, theirs = ours(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.get_vocab() == theirs.get_vocab()
    reference = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    source = tokenizer.token_to_id(lang or "en_XX")
    for text in [*TEXTS, *sentences()[:50]]:
        pieces = [3 if i == reference.unk_id() else i + 1 for i in reference.encode(text)]
        expected = [source, *pieces, 2] if many else [*pieces, 2, source]
        assert tokenizer.encode(text).ids == expected, text
    plain = "Hello world <mask> again"
    assert tokenizer.encode(plain).ids == theirs(plain).input_ids


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_decoding_undoes_encoding(kind: str, tmp_path: Path) -> None:
    """Of any model with byte pieces, for text with one space between words."""
    model = sentencepiece_model(kind, 600, byte_fallback=True, normalization_rule_name="identity")
    tokenizer = ours(write(tmp_path, "llama", {"tokenizer.model": model}))
    for text in [*(" ".join(text.split()) for text in TEXTS), *sentences()[:50]]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize(
    ("model_type", "files", "text"),
    [
        ("roberta", byte_level, "a <mask> b"),
        ("bart", byte_level, "a <mask> b"),
        ("xlm-roberta", lambda: {"sentencepiece.bpe.model": sentencepiece_model()}, "a <mask> b"),
        ("albert", lambda: {"spiece.model": albert_model()}, "a [MASK] b"),
    ],
)
def test_a_mask_takes_the_space_before_it(model_type: str, files: Any, text: str, tmp_path: Path) -> None:
    """As in the tokenizer.json of all these models on the hub; transformers 5 forgets it where no file says so."""
    tokenizer = ours(write(tmp_path, model_type, files()))
    mask = next(word for word in text.split() if word[0] in "<[")
    ids = tokenizer.encode(text).ids
    without = tokenizer.encode(text.replace(f" {mask}", mask)).ids
    assert ids == without
    assert tokenizer.token_to_id(mask) in ids


def test_llama_begins_with_bos_where_no_file_says(tmp_path: Path) -> None:
    tokenizer = ours(write(tmp_path, "llama", {"tokenizer.model": llama_model()}))
    assert tokenizer.encode("Hello").ids[0] == 1
    assert tokenizer.encode("").ids == [1]


@pytest.fixture
def marian(tmp_path: Path) -> tuple[Path, bytes, tuple[str, ...]]:
    """A folder, the model of the target language, and sentences in it: English with some letters in Cyrillic."""
    cyrillic = str.maketrans("abcdefghij", "абвгдежзий")
    target_texts = tuple(text.translate(cyrillic) for text in sentences())
    source = sentencepiece_model()
    target = train_sentencepiece(target_texts + ("ё ü ß é",) * 20, "unigram", 300, hard_vocab_limit=False)
    pieces: set[str] = set()
    for model in (source, target):
        sp = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces |= {sp.id_to_piece(i) for i in range(3, sp.get_piece_size())}
    texts = ["</s>", "<unk>", *sorted(pieces, key=lambda text: text[::-1]), ">>fr<<", ">>de<<", "<pad>"]
    files = {
        "source.spm": source,
        "target.spm": target,
        "vocab.json": {text: index for index, text in enumerate(texts)},
        CONFIG: {"source_lang": "en", "target_lang": "ru", "tokenizer_class": "MarianTokenizer"},
    }
    return write(tmp_path, "marian", files), target, target_texts


@pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
def test_marian(marian: tuple[Path, bytes, tuple[str, ...]]) -> None:
    folder, target, target_texts = marian
    theirs, tokenizer = transformers.AutoTokenizer.from_pretrained(folder), ours(folder)
    more = [">>fr<< Hello", ">>de<<Hello", "ß", "a ё b", "café é", "a </s> b"]
    for text in [*TEXTS[:-1], *more, *sentences()]:
        assert tokenizer.encode(text).ids == theirs(text).input_ids, text
    sp = sentencepiece.SentencePieceProcessor(model_proto=target)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    for text in target_texts:
        ids = [vocabulary.get(piece, vocabulary["<unk>"]) for piece in sp.encode(text, out_type=str)]
        decoded = theirs.decode([*ids, 0], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert tokenizer.decode([*ids, 0]) == decoded
        assert any("а" <= char <= "я" for char in decoded)


def test_marian_knows_single_characters_of_the_target(marian: tuple[Path, bytes, tuple[str, ...]]) -> None:
    """transformers makes one <unk> of a run of them, but looks up one that stands alone."""
    folder, *_ = marian
    vocabulary = json.loads((folder / "vocab.json").read_text())
    ids = ours(folder).encode("ёж").ids
    assert ids == [vocabulary[piece] for piece in ("▁", "ё", "ж", "</s>")]


def test_marian_with_two_vocabularies(marian: tuple[Path, bytes, tuple[str, ...]]) -> None:
    folder, *_ = marian
    (folder / CONFIG).write_text('{"separate_vocabs": true}')
    with pytest.raises(UnsupportedArchitecture, match="separate_vocabs"):
        ours(folder)


@pytest.mark.parametrize("name", ["SomeTokenizer", None])
def test_unknown_kind(name: str | None, tmp_path: Path) -> None:
    folder = write(tmp_path, "funnel", {"vocab.txt": vocab_txt(), CONFIG: {"tokenizer_class": name}})
    with pytest.raises(UnsupportedArchitecture, match=rf"vocab\.txt.*{name or 'its kind'}.*\n.*AutoTokenizer"):
        ours(folder)


def test_model_type_decides_where_the_class_says_nothing(tmp_path: Path) -> None:
    files = {"vocab.txt": vocab_txt(), CONFIG: {"tokenizer_class": "PreTrainedTokenizerFast"}}
    assert ours(write(tmp_path, "bert", files)).encode("").tokens == ["[CLS]", "[SEP]"]


@pytest.mark.parametrize("missing", ["vocab.json", "merges.txt"])
def test_half_of_a_pair_is_no_tokenizer(missing: str, tmp_path: Path) -> None:
    folder = write(tmp_path, "gpt2", byte_level())
    (folder / missing).unlink()
    assert load_tokenizer(Checkpoint(folder)) is None


def test_a_packed_model_keeps_it(tiny, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder, file = tmp_path / "folder", tmp_path / "model.qkv"
    shutil.copytree(tiny("gpt2"), folder)
    for name, content in byte_level().items():
        (folder / name).write_text(content)
    qkv.pack(folder, file)
    shutil.rmtree(folder)
    tokenizer = qkv.load(file).tokenizer
    assert tokenizer is not None
    assert tokenizer.decode(tokenizer.encode("Hello world").ids) == "Hello world"


def test_tokenizer_json_comes_first(tmp_path: Path) -> None:
    folder = write(tmp_path, "gpt2", byte_level())
    tokenizer = ours(folder)
    tokenizer.add_special_tokens(["<from-json>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text("broken")
    assert ours(folder).token_to_id("<from-json>") == 500
