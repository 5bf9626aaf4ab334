"""Byte-level BPE tokenizers from `vocab.json` and `merges.txt` (Radford et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from qkv.checkpoint.checkpoint import Checkpoint
from qkv.checkpoint.folder import decode_text
from qkv.checkpoint.special_tokens import SpecialTokens, special
from qkv.checkpoint.vocabulary import dense_vocabulary
from qkv.errors import CheckpointError

VOCABULARY, MERGES = "vocab.json", "merges.txt"


@dataclass(frozen=True)
class Style:
    """What a tokenizer class of transformers adds to the files.

    Attributes:
        tokens: special tokens where the files name none.
        cls_sep: whether a text stands between `cls_token` and `sep_token`. Otherwise the config decides about
            `bos_token` and `eos_token`, and without its word there are none.
    """

    tokens: Mapping[str, AddedToken]
    cls_sep: bool


_END = special("<|endoftext|>")
_GPT2 = Style({"bos_token": _END, "eos_token": _END, "unk_token": _END}, cls_sep=False)
_ROBERTA = Style(
    {
        "bos_token": special("<s>"),
        "eos_token": special("</s>"),
        "unk_token": special("<unk>"),
        "sep_token": special("</s>"),
        "pad_token": special("<pad>"),
        "cls_token": special("<s>"),
        "mask_token": special("<mask>", lstrip=True),  # stands for a word and the space before it
    },
    cls_sep=True,
)

STYLES = {
    "GPT2Tokenizer": _GPT2,
    "CodeGenTokenizer": _GPT2,
    "RobertaTokenizer": _ROBERTA,
    "BartTokenizer": _ROBERTA,
    "LongformerTokenizer": _ROBERTA,
    "LEDTokenizer": _ROBERTA,
}


def build(checkpoint: Checkpoint, style: Style) -> Tokenizer | None:
    """The tokenizer of `vocab.json` and `merges.txt`; None when one of them is missing.

    Raises:
        CheckpointError: one of the files is broken, or they do not fit together.
    """
    vocabulary, merges = checkpoint.file(VOCABULARY), checkpoint.file(MERGES)
    if vocabulary is None or merges is None:
        return None
    tokens = SpecialTokens(checkpoint, style.tokens)
    where = checkpoint.path / MERGES
    ids = dense_vocabulary(vocabulary, checkpoint.path / VOCABULARY)
    try:
        tokenizer = Tokenizer(models.BPE(ids, _parse_merges(decode_text(merges, where), where)))
    except Exception as error:  # tokenizers raises no narrower one
        raise CheckpointError(f"{where} does not fit {VOCABULARY}: {error}") from error
    prefix_space = tokens.setting("add_prefix_space", False)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    tokens.add_to(tokenizer)
    if style.cls_sep:
        cls, sep = tokens["cls_token"], tokens["sep_token"]
        tokenizer.post_processor = processors.RobertaProcessing(
            (sep, tokens.id(tokenizer, sep)),
            (cls, tokens.id(tokenizer, cls)),
            trim_offsets=tokens.setting("trim_offsets", True),
            add_prefix_space=prefix_space,
        )
    else:
        tokens.bos_eos_template(tokenizer, add_bos=False)
    return tokenizer


def _parse_merges(text: str, where: Path) -> list[tuple[str, str]]:
    """A pair a line, the first line may be a version."""
    merges = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line or line.startswith("#version"):
            continue
        left, _space, right = line.partition(" ")
        if not (left and right) or " " in right:
            raise CheckpointError(f"{where}: line {number} is {line!r:.60}; expected two pieces with a space between")
        merges.append((left, right))
    return merges
