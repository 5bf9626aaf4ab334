"""Which files a checkpoint without tokenizer.json has instead, and what makes a tokenizer of them."""

from __future__ import annotations

from tokenizers import Tokenizer

from qkv.checkpoint import bytelevel, marian, sentencepiece, wordpiece
from qkv.checkpoint.checkpoint import Checkpoint
from qkv.errors import UnsupportedArchitecture

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


def from_older_files(checkpoint: Checkpoint) -> Tokenizer | None:
    """A tokenizer equal to the one that transformers makes of the same files; None when there are none.

    Raises:
        CheckpointError: a file is broken, or does not fit the others.
        UnsupportedArchitecture: there are files, but of a kind of tokenizer that is not known.
    """
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
