"""Tiny tokenizers as checkpoints had them before tokenizer.json: trained by the libraries that made the real ones."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

import qkv

PASSAGES = Path(qkv.__file__).parent / "demo" / "passages.json"

TEXTS = [
    "",
    "Hello world",
    "  leading and  double   spaces ",
    "Ünïcödé naïve café",
    "東京 and 北京市 CJK",
    "1234567890 3.14, 2,000",
    "don't stop: I'll go!",
    "emoji 🙂👍🏽",
    "tabs\tand\nnewlines\r\n",
    "ﬁne １２３ ｆｕｌｌ ℌ",
    "a<b>&amp;",
    "UPPER lower MiXeD",
    "\u200bzero\u00a0width",
    "``quoted'' text",
    "Привет мир",
]


@cache
def sentences() -> tuple[str, ...]:
    return tuple(text for texts in json.loads(PASSAGES.read_text()).values() for text in map(str, texts))


@cache
def vocab_txt() -> str:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<pad>", "<mask>"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(sentences(), trainer)
    vocabulary = tokenizer.get_vocab()
    return "\n".join(sorted(vocabulary, key=vocabulary.__getitem__)) + "\n"


@cache
def byte_level() -> dict[str, str]:
    """vocab.json and merges.txt"""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(sentences(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = "".join(f"{left} {right}\n" for left, right in model["merges"])
    return {"vocab.json": json.dumps(model["vocab"]), "merges.txt": "#version: 0.2\n" + merges}


@cache
def sentencepiece_model(kind: str = "unigram", size: int = 300, **options: Any) -> bytes:
    return train_sentencepiece(sentences(), kind, size, **options)


def train_sentencepiece(texts: Any, kind: str, size: int, **options: Any) -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=out, model_type=kind, vocab_size=size, minloglevel=2, **options
    )
    return out.getvalue()


def t5_model() -> bytes:
    return sentencepiece_model(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


def albert_model() -> bytes:
    return sentencepiece_model(
        pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols="[CLS],[SEP]", user_defined_symbols="[MASK]"
    )


def llama_model() -> bytes:
    return sentencepiece_model(
        "bpe", 600, normalization_rule_name="identity", remove_extra_whitespaces=False, byte_fallback=True
    )


def write(folder: Path, model_type: str, files: dict[str, Any], **config: Any) -> Path:
    """A folder without weights: config.json and `files`, whose values are bytes, text or JSON."""
    for name, value in {"config.json": {"model_type": model_type, **config}, **files}.items():
        text = value if isinstance(value, str) else value if isinstance(value, bytes) else json.dumps(value)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder
