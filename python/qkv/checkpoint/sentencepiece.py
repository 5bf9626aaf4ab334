"""Tokenizers from the model files of sentencepiece: `spiece.model`, `sentencepiece.bpe.model`, `tokenizer.model`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from qkv.checkpoint.checkpoint import Checkpoint
from qkv.checkpoint.sentencepiece_model import Kind, SentencePieceModel, read_model
from qkv.checkpoint.special_tokens import SpecialTokens, special
from qkv.errors import CheckpointError

SPACE = "▁"  # stands for a space in pieces

Scored = tuple[str, float]

# Language codes, in the order of their ids.
_MBART = (
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX "
    "ro_RO ru_RU si_LK tr_TR vi_VN zh_CN"
)
_MBART50 = (
    f"{_MBART} af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE "
    "sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"
)


@dataclass(frozen=True)
class Style:
    """What a tokenizer class of transformers adds to the model file.

    Attributes:
        file: name of the model file.
        tokens: special tokens where the files name none.
        vocabulary: pieces and scores, by id, from those of the model file.
        single, pair: what stands around one text and two; `{bos}` and so on are special tokens, `{lang}` the source
            language. "" where the config decides about `bos_token` and `eos_token`.
        normalizers: what is done to a text before the model file's own normalisation.
    """

    file: str
    tokens: Mapping[str, AddedToken]
    vocabulary: Callable[[list[Scored], SpecialTokens], list[Scored]]
    single: str
    pair: str
    normalizers: Callable[[SpecialTokens], list[normalizers.Normalizer]] = lambda tokens: []


def _as_it_is(pieces: list[Scored], tokens: SpecialTokens) -> list[Scored]:
    return pieces


def _with_sentinels(pieces: list[Scored], tokens: SpecialTokens) -> list[Scored]:
    """T5 counts its sentinels down."""
    return pieces + _zeros(f"<extra_id_{i}>" for i in reversed(range(tokens.setting("extra_ids", 100))))


def _fairseq(pieces: list[Scored], tokens: SpecialTokens) -> list[Scored]:
    """fairseq begins with four tokens of its own, sentencepiece with three: all ids go up by one."""
    first = (tokens[f"{name}_token"] for name in ("bos", "pad", "eos", "unk"))
    return [*_zeros(first), *pieces[3:], (tokens["mask_token"], 0.0)]


def _fairseq_languages(languages: list[str]) -> Callable[[list[Scored], SpecialTokens], list[Scored]]:
    def vocabulary(pieces: list[Scored], tokens: SpecialTokens) -> list[Scored]:
        *known, mask = _fairseq(pieces, tokens)
        return [*known, *_zeros(languages), mask]

    return vocabulary


def _camembert(pieces: list[Scored], tokens: SpecialTokens) -> list[Scored]:
    first = ("<s>NOTUSED", tokens["pad_token"], "</s>NOTUSED", tokens["unk_token"])
    return [*_zeros(first), ("<unk>NOTUSED", -100.0), *pieces[1:], (tokens["mask_token"], 0.0)]


def _zeros(texts: Iterable[str]) -> list[Scored]:
    return [(text, 0.0) for text in texts]


def _albert_normalizers(tokens: SpecialTokens) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not tokens.setting("keep_accents", False):
        steps += normalizers.NFKD(), normalizers.StripAccents()
    if tokens.setting("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    return steps


_BASE = {"eos_token": special("</s>"), "unk_token": special("<unk>"), "pad_token": special("<pad>")}
_FAIRSEQ = {
    **_BASE,
    "bos_token": special("<s>"),
    "cls_token": special("<s>"),
    "sep_token": special("</s>"),
    "mask_token": special("<mask>", lstrip=True),  # stands for a word and the space before it
}
_XLM_ROBERTA = Style("sentencepiece.bpe.model", _FAIRSEQ, _fairseq, "{bos} $A {eos}", "{bos} $A {eos} {eos} $B {eos}")

STYLES = {
    "T5Tokenizer": Style("spiece.model", _BASE, _with_sentinels, "$A {eos}", "$A {eos} $B {eos}"),
    "AlbertTokenizer": Style(
        "spiece.model",
        {
            "bos_token": special("[CLS]"),
            "eos_token": special("[SEP]"),
            "unk_token": special("<unk>"),
            "sep_token": special("[SEP]"),
            "pad_token": special("<pad>"),
            "cls_token": special("[CLS]"),
            "mask_token": special("[MASK]", lstrip=True),
        },
        _as_it_is,
        "{cls} $A {sep}",
        "{cls} $A {sep} $B:1 {sep}:1",
        normalizers=_albert_normalizers,
    ),
    "XLMRobertaTokenizer": _XLM_ROBERTA,
    "CamembertTokenizer": Style(_XLM_ROBERTA.file, _FAIRSEQ, _camembert, _XLM_ROBERTA.single, _XLM_ROBERTA.pair),
    "MBartTokenizer": Style(
        _XLM_ROBERTA.file,
        _FAIRSEQ,
        _fairseq_languages(_MBART.split()),
        "$A {eos} {lang}",
        "$A $B {eos} {lang}",
    ),
    "MBart50Tokenizer": Style(
        _XLM_ROBERTA.file,
        _FAIRSEQ,
        _fairseq_languages(_MBART50.split()),
        "{lang} $A {eos}",
        "{lang} $A $B {eos}",
    ),
    "LlamaTokenizer": Style(
        "tokenizer.model",
        {"bos_token": special("<s>"), "eos_token": special("</s>"), "unk_token": special("<unk>")},
        _as_it_is,
        "",
        "",
    ),
}


def build(checkpoint: Checkpoint, style: Style) -> Tokenizer | None:
    """The tokenizer of a sentencepiece model file; None when there is no such file.

    Raises:
        CheckpointError: the file is broken, or lacks a special token.
    """
    data = checkpoint.file(style.file)
    if data is None:
        return None
    model = read_model(data, checkpoint.path / style.file)
    tokens = SpecialTokens(checkpoint, style.tokens)
    vocabulary = style.vocabulary([(piece.text, piece.score) for piece in model.pieces], tokens)
    unknown = next((i for i, (text, _score) in enumerate(vocabulary) if text == tokens["unk_token"]), model.unknown)
    try:
        tokenizer = Tokenizer((_bpe if model.is_bpe else _unigram)(model, vocabulary, unknown))
    except Exception as error:  # tokenizers raises no narrower one
        raise CheckpointError(f"{checkpoint.path / style.file} cannot be used: {error}") from error
    set_text_rules(tokenizer, model, tokens, style.normalizers(tokens))
    known = {piece.text for piece in model.pieces}
    tokens.add_to(tokenizer, [*verbatim(model), *(special(text) for text, _score in vocabulary if text not in known)])
    if style.single:
        lang = tokens.setting("src_lang", "en_XX")
        tokens.template(tokenizer, tokens.fill(style.single, lang=lang), tokens.fill(style.pair, lang=lang))
    else:
        tokens.bos_eos_template(tokenizer, add_bos=True)
    return tokenizer


def verbatim(model: SentencePieceModel) -> list[AddedToken]:
    """Pieces that are found in a text before it is normalised."""
    kinds = (Kind.CONTROL, Kind.USER_DEFINED)
    return [special(p.text, special=p.kind is Kind.CONTROL) for p in model.pieces if p.kind in kinds]


def set_text_rules(
    tokenizer: Tokenizer,
    model: SentencePieceModel,
    tokens: SpecialTokens,
    first: Sequence[normalizers.Normalizer] = (),
) -> None:
    """What is done to a text before it is cut into pieces, and to pieces to make text. `first`: before the model's own
    normalisation."""
    steps = [*first, *([normalizers.Precompiled(model.charsmap)] if model.charsmap else [])]
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    prefix = tokens.setting("add_prefix_space", model.dummy_prefix)
    if model.strips:
        words = pre_tokenizers.Metaspace(SPACE, "always" if prefix else "never")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    else:
        # "legacy": a space is put after each special token in the text, too
        scheme = ("always" if tokens.setting("legacy", False) else "first") if prefix else "never"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, scheme, split=False)
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )


def _unigram(model: SentencePieceModel, vocabulary: list[Scored], unknown: int) -> models.Unigram:
    return models.Unigram(vocabulary, unknown, byte_fallback=_has_bytes(model))


def _bpe(model: SentencePieceModel, vocabulary: list[Scored], unknown: int) -> models.BPE:
    ids = {text: index for index, (text, _score) in enumerate(vocabulary)}
    return models.BPE(
        ids, _merges(model), unk_token=vocabulary[unknown][0], fuse_unk=True, byte_fallback=_has_bytes(model)
    )


def _merges(model: SentencePieceModel) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, those first whose result has the best score."""
    ids = {piece.text: index for index, piece in enumerate(model.pieces) if piece.kind is Kind.NORMAL}
    merges = []
    for text, index in ids.items():
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in ids and right in ids:
                merges.append((-model.pieces[index].score, index, ids[left], ids[right], left, right))
    return [(left, right) for *_order, left, right in sorted(merges)]


def _has_bytes(model: SentencePieceModel) -> bool:
    return any(piece.kind is Kind.BYTE for piece in model.pieces)
