"""The tokenizer of a checkpoint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkv.checkpoint.checkpoint import Checkpoint
from qkv.checkpoint.folder import parse_object
from qkv.errors import CheckpointError, UnsupportedArchitecture

if TYPE_CHECKING:
    from tokenizers import Tokenizer


# Any but an empty continuation prefix, or an escape that could hide one. To search is much faster than to parse.
_MAY_HAVE_PREFIX = re.compile(rb"""\\u|"continuing_subword_prefix"(?!\s*:\s*(null|""))""")


# Classes of tokenizers that a model_type has where no file names one.
_CLASSES = {
    "albert": "AlbertTokenizer",
    "bart": "BartTokenizer",
    "bert": "BertTokenizer",
    "camembert": "CamembertTokenizer",
    "codegen": "CodeGenTokenizer",
    "distilbert": "DistilBertTokenizer",
    "electra": "ElectraTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neo": "GPT2Tokenizer",
    "gptj": "GPT2Tokenizer",
    "led": "LEDTokenizer",
    "llama": "LlamaTokenizer",
    "longformer": "LongformerTokenizer",
    "marian": "MarianTokenizer",
    "mbart": "MBartTokenizer",
    "mistral": "LlamaTokenizer",
    "mobilebert": "MobileBertTokenizer",
    "mpnet": "MPNetTokenizer",
    "mt5": "T5Tokenizer",
    "opt": "GPT2Tokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}
# Names that say no more than that there should be a tokenizer.json.
_ANY_CLASS = ("PreTrainedTokenizer", "TokenizersBackend")
_OLDER_FILES = ("vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "source.spm")


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    """The tokenizer of ``tokenizer.json``, else one made of the older files; None when the checkpoint has neither.

    Padding and truncation are switched off: this package does not pad, and callers cut text themselves.

    Raises:
        CheckpointError: a file is broken, or does not fit the others.
        UnsupportedArchitecture: there are older files, but of a kind of tokenizer that is not known.
    """
    data = checkpoint.file("tokenizer.json")
    tokenizer = _from_older_files(checkpoint) if data is None else _parse(data, checkpoint.path / "tokenizer.json")
    if tokenizer is not None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
    return tokenizer


def _parse(data: bytes, path: Path) -> Tokenizer:
    if _MAY_HAVE_PREFIX.search(data):
        _check_merges(parse_object(data, path).get("model"), path)
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_buffer(data)
    except BaseException as error:
        # tokenizers raises plain Exception, or where its Rust code panics a PanicException that is none.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        parse_object(data, path)  # where the file is no JSON object, this says so
        raise CheckpointError(f"{path} is not a valid tokenizer: {error}") from error


def _from_older_files(checkpoint: Checkpoint) -> Tokenizer | None:
    from qkv.checkpoint import bytelevel, marian, sentencepiece, wordpiece

    name = _class_name(checkpoint)
    if name in wordpiece.STYLES:
        return wordpiece.build(checkpoint, wordpiece.STYLES[name])
    if name in bytelevel.STYLES:
        return bytelevel.build(checkpoint, bytelevel.STYLES[name])
    if name in sentencepiece.STYLES:
        return sentencepiece.build(checkpoint, sentencepiece.STYLES[name])
    if name == "MarianTokenizer":
        return marian.build(checkpoint)
    found = [file for file in _OLDER_FILES if checkpoint.file(file) is not None]
    if not found:
        return None
    raise UnsupportedArchitecture(
        f"{checkpoint.path} has no tokenizer.json, and to make a tokenizer of {', '.join(found)}, {name or 'its kind'} "
        "is not supported. Write a tokenizer.json once with transformers:\n"
        "    AutoTokenizer.from_pretrained(SOURCE).save_pretrained(TARGET)"
    )


def _class_name(checkpoint: Checkpoint) -> str | None:
    """The class of transformers that reads the older files."""
    for config in (checkpoint.json("tokenizer_config.json") or {}, checkpoint.config):
        name = config.get("tokenizer_class")
        if isinstance(name, str) and name.removesuffix("Fast") not in _ANY_CLASS:
            return name.removesuffix("Fast")
    return _CLASSES.get(str(checkpoint.config.get("model_type")))


def _check_merges(model: Any, path: Path) -> None:
    """Refuse a merge whose second part lacks the continuation prefix.

    tokenizers (0.23) cuts the prefix off without looking, and ends the process when that splits a character.
    """
    if not isinstance(model, dict) or not isinstance(prefix := model.get("continuing_subword_prefix"), str):
        return
    for merge in model.get("merges") or ():
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not str(parts[1]).startswith(prefix):
            raise CheckpointError(f"{path}: the merge {merge!r} does not continue with the prefix {prefix!r}")
