"""WordPiece tokenizers from `vocab.txt` (Wu et al. 2016; Devlin et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from qkv.checkpoint.checkpoint import Checkpoint
from qkv.checkpoint.folder import decode_text
from qkv.checkpoint.special_tokens import SpecialTokens, special

FILE = "vocab.txt"


@dataclass(frozen=True)
class Style:
    """What a tokenizer class of transformers adds to the files.

    Attributes:
        tokens: special tokens where the files name none.
        pair: what stands around two texts; `{cls}` and `{sep}` are special tokens.
    """

    tokens: Mapping[str, AddedToken]
    pair: str


_BERT = Style(
    {
        "unk_token": special("[UNK]"),
        "sep_token": special("[SEP]"),
        "pad_token": special("[PAD]"),
        "cls_token": special("[CLS]"),
        "mask_token": special("[MASK]"),
    },
    "{cls} $A {sep} $B:1 {sep}:1",
)
_MPNET = Style(
    {
        "bos_token": special("<s>"),
        "eos_token": special("</s>"),
        "unk_token": special("[UNK]"),
        "sep_token": special("</s>"),
        "pad_token": special("<pad>"),
        "cls_token": special("<s>"),
        "mask_token": special("<mask>", lstrip=True),
    },
    "{cls} $A {sep} {sep} $B {sep}",
)

STYLES = {
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "ElectraTokenizer": _BERT,
    "MobileBertTokenizer": _BERT,
    "MPNetTokenizer": _MPNET,
}


def build(checkpoint: Checkpoint, style: Style) -> Tokenizer | None:
    """The tokenizer of `vocab.txt`, one piece a line; None when there is no such file.

    Raises:
        CheckpointError: the file is not UTF-8 or lacks a special token.
    """
    data = checkpoint.file(FILE)
    if data is None:
        return None
    lines = decode_text(data, checkpoint.path / FILE).removesuffix("\n").split("\n")
    tokens = SpecialTokens(checkpoint, style.tokens)
    vocabulary = {line.rstrip(): index for index, line in enumerate(lines)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=tokens["unk_token"]))
    tokens.id(tokenizer, tokens["unk_token"])  # without it, a word that is not in the vocabulary would be an error
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=tokens.setting("tokenize_chinese_chars", True),
        strip_accents=tokens.optional_flag("strip_accents"),  # None: as lower case
        lowercase=tokens.setting("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokens.add_to(tokenizer)
    tokens.template(tokenizer, tokens.fill("{cls} $A {sep}"), tokens.fill(style.pair))
    return tokenizer
