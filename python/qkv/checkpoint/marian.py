"""Marian's tokenizers (Junczys-Dowmunt et al. 2018): `source.spm` cuts texts into pieces, `vocab.json` has their ids.

One `tokenizers.Tokenizer` does both directions. Texts are in the source language: pieces that only the target language
has are hidden from the encoder behind a mark that no text has, and decoding takes the mark away. Only single characters
stay visible, at a score that makes them the last resort: Marian, too, looks up in `vocab.json` what `source.spm` does
not know. `target.spm` is not read: what it would add to joining pieces is nothing.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models

from qkv.checkpoint.checkpoint import Checkpoint
from qkv.checkpoint.sentencepiece import set_text_rules
from qkv.checkpoint.sentencepiece_model import Kind, read_model
from qkv.checkpoint.special_tokens import SpecialTokens, special
from qkv.checkpoint.vocabulary import dense_vocabulary
from qkv.errors import CheckpointError, UnsupportedArchitecture

MODEL, VOCABULARY = "source.spm", "vocab.json"

_HIDDEN = "\uffff"  # Unicode says that it is no character, and never will be
_TOKENS = {"eos_token": special("</s>"), "unk_token": special("<unk>"), "pad_token": special("<pad>")}


def build(checkpoint: Checkpoint) -> Tokenizer | None:
    """The tokenizer of `source.spm` and `vocab.json`; None when one of them is missing.

    Raises:
        CheckpointError: one of the files is broken, or they do not fit together.
        UnsupportedArchitecture: the target language has a vocabulary of its own.
    """
    data, ids = checkpoint.file(MODEL), checkpoint.file(VOCABULARY)
    if data is None or ids is None:
        return None
    tokens = SpecialTokens(checkpoint, _TOKENS)
    if tokens.setting("separate_vocabs", False):
        raise UnsupportedArchitecture(
            f"{checkpoint.path / 'tokenizer_config.json'}: a Marian tokenizer with separate_vocabs is not supported"
        )
    model = read_model(data, checkpoint.path / MODEL)
    where = checkpoint.path / VOCABULARY
    vocabulary = dense_vocabulary(ids, where)
    texts = sorted(vocabulary, key=vocabulary.__getitem__)
    if tokens["unk_token"] not in texts:
        raise CheckpointError(f"{where} lacks {tokens['unk_token']!r}, which stands for unknown pieces")
    scores = {piece.text: piece.score for piece in model.pieces if piece.kind is not Kind.UNKNOWN}
    last_resort = min(scores.values(), default=0.0) - 10  # what sentencepiece gives to an unknown character
    languages = [text for text in texts if text.startswith(">>") and text.endswith("<<")]
    visible = tokens.texts.union(languages)
    pieces = [
        (text if text in scores or text in visible or len(text) == 1 else _HIDDEN + text, scores.get(text, last_resort))
        for text in texts
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, vocabulary[tokens["unk_token"]]))
    set_text_rules(tokenizer, model, tokens)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_HIDDEN, ""), tokenizer.decoder])
    tokens.add_to(tokenizer, [special(text, special=False) for text in languages])
    eos = tokens["eos_token"]
    tokens.template(tokenizer, ["$A", eos], ["$A", "$B", eos])
    return tokenizer
