"""Sentence embeddings of other encoders than BERT, as sentence-transformers writes and pools them."""

from __future__ import annotations

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tests.tiny import CASES
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import qkv

TEXTS = ["the cat sat on the mat .", "a dog", "", "it was so very slow , and the sun ran under a big small dog . " * 15]
WORDS = sorted(set(" ".join(TEXTS).split()))


def tokenizer(padding: int) -> PreTrainedTokenizerFast:
    """A word a token, between <s> and </s>; the id of <pad> is given."""
    words = ["<s>", "</s>", "<unk>", *WORDS]
    words.insert(padding, "<pad>")
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, words.index(word)) for word in ("<s>", "</s>")]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>", model_max_length=180)


@pytest.mark.parametrize(
    ("case", "pooling"), [("roberta", "mean"), ("roberta", "cls"), ("albert", "mean"), ("distilbert", "max")]
)
def test_equals_sentence_transformers(case: str, pooling: str, tmp_path) -> None:
    model = CASES[case].make()
    model.save_pretrained(tmp_path / "plain")
    tokenizer(model.config.pad_token_id).save_pretrained(tmp_path / "plain")
    modules = [Transformer(str(tmp_path / "plain")), Pooling(model.config.hidden_size, pooling), Normalize()]
    reference = SentenceTransformer(modules=modules, device="cpu")
    reference.save(str(tmp_path / "sentences"))
    expected = reference.encode(TEXTS)
    got = qkv.load(tmp_path / "sentences").encode(TEXTS)
    assert np.abs(got - expected).max() <= 1e-5
    assert np.abs(got[0] - got[1]).max() > 1e-2  # the texts differ
