"""BERT and its family, with every head."""

from __future__ import annotations

from tests.tiny.case import Case

BERT = {
    "vocab_size": 101, "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 5, "intermediate_size": 77,
    "max_position_embeddings": 200, "type_vocab_size": 3,
}  # fmt: skip
# 190 positions behind the padding id, as many as the longest sequence needs
ROBERTA = BERT | {"pad_token_id": 9, "max_position_embeddings": 200, "num_attention_heads": 1}
ALBERT = BERT | {
    "embedding_size": 21, "num_hidden_layers": 3, "num_hidden_groups": 2, "inner_group_num": 2,
}  # fmt: skip
DISTILBERT = {
    "vocab_size": 101, "dim": 72, "n_layers": 2, "n_heads": 3, "hidden_dim": 77, "max_position_embeddings": 200,
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
    "roberta": Case("RobertaModel", "RobertaConfig", ROBERTA),
    "roberta-mlm": Case("RobertaForMaskedLM", "RobertaConfig", ROBERTA | {"hidden_act": "relu"}),
    "roberta-mlm-untied": Case("RobertaForMaskedLM", "RobertaConfig", ROBERTA | UNTIED),
    "roberta-sequences": Case("RobertaForSequenceClassification", "RobertaConfig", ROBERTA | {"num_labels": 11}),
    "xlm-roberta-question": Case("XLMRobertaForQuestionAnswering", "XLMRobertaConfig", ROBERTA | {"pad_token_id": 1}),
    "camembert-tokens": Case("CamembertForTokenClassification", "CamembertConfig", ROBERTA | {"num_labels": 7}),
    "albert": Case("AlbertModel", "AlbertConfig", ALBERT),
    "albert-mlm": Case("AlbertForMaskedLM", "AlbertConfig", ALBERT | {"inner_group_num": 1}),
    "albert-mlm-untied": Case("AlbertForMaskedLM", "AlbertConfig", ALBERT | UNTIED | {"num_hidden_groups": 1}),
    "albert-pretraining": Case("AlbertForPreTraining", "AlbertConfig", ALBERT | {"hidden_act": "gelu"}),
    "albert-sequences": Case(
        "AlbertForSequenceClassification", "AlbertConfig", ALBERT | {"num_labels": 7, "inner_group_num": 1}
    ),
    "albert-tokens": Case("AlbertForTokenClassification", "AlbertConfig", ALBERT | {"num_labels": 7}),
    "albert-question": Case("AlbertForQuestionAnswering", "AlbertConfig", ALBERT),
    "distilbert": Case("DistilBertModel", "DistilBertConfig", DISTILBERT),
    "distilbert-sinusoids": Case("DistilBertModel", "DistilBertConfig", DISTILBERT | {"sinusoidal_pos_embds": True}),
    "distilbert-mlm": Case("DistilBertForMaskedLM", "DistilBertConfig", DISTILBERT | {"activation": "relu"}),
    "distilbert-mlm-untied": Case("DistilBertForMaskedLM", "DistilBertConfig", DISTILBERT | UNTIED),
    "distilbert-sequences": Case(
        "DistilBertForSequenceClassification", "DistilBertConfig", DISTILBERT | {"num_labels": 7}
    ),
    "distilbert-tokens": Case("DistilBertForTokenClassification", "DistilBertConfig", DISTILBERT | {"num_labels": 7}),
    "distilbert-question": Case("DistilBertForQuestionAnswering", "DistilBertConfig", DISTILBERT),
}
