"""BERT and its family."""

from __future__ import annotations

from tests.tiny.case import Case

BERT = {
    "vocab_size": 101, "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 77,
    "max_position_embeddings": 200, "type_vocab_size": 3,
}  # fmt: skip

CASES = {
    "bert": Case("BertModel", "BertConfig", BERT),
    "bert-relu": Case("BertModel", "BertConfig", BERT | {"hidden_act": "relu", "num_attention_heads": 1}),
    "bert-gelu_new": Case("BertModel", "BertConfig", BERT | {"hidden_act": "gelu_new", "type_vocab_size": 1}),
}
