"""BERT and its family, with every head."""

from __future__ import annotations

from tests.tiny.case import Case

BERT = {
    "vocab_size": 101, "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 77,
    "max_position_embeddings": 200, "type_vocab_size": 3,
}  # fmt: skip
UNTIED = {"tie_word_embeddings": False}

CASES = {
    "bert": Case("BertModel", "BertConfig", BERT),
    "bert-relu": Case("BertModel", "BertConfig", BERT | {"hidden_act": "relu", "num_attention_heads": 1}),
    "bert-gelu_new": Case("BertModel", "BertConfig", BERT | {"hidden_act": "gelu_new", "type_vocab_size": 1}),
    "bert-mlm": Case("BertForMaskedLM", "BertConfig", BERT | {"hidden_act": "relu"}),
    "bert-mlm-untied": Case("BertForMaskedLM", "BertConfig", BERT | UNTIED),
    "bert-pretraining": Case("BertForPreTraining", "BertConfig", BERT),
    "bert-sequences": Case("BertForSequenceClassification", "BertConfig", BERT | {"num_labels": 7}),
    "bert-tokens": Case("BertForTokenClassification", "BertConfig", BERT | {"num_labels": 7}),
    "bert-question": Case("BertForQuestionAnswering", "BertConfig", BERT),
}
