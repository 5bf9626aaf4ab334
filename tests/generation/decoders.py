"""Tiny random decoders with a byte-level BPE tokenizer, and room for 640 positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CORPUS = [
    "To be, or not to be, that is the question: whether 'tis nobler in the mind to suffer",
    "The slings and arrows of outrageous fortune, or to take arms against a sea of troubles",
    "Voilà: naïve café, größer, 日本語の文章, Здравствуй, мир! 🙂🙃 — and back to plain words.",
]
BOS = 0

# A wide initialisation keeps the best logit well apart from the second, and the text lively.
CONFIGS: dict[str, transformers.PretrainedConfig] = {
    "gpt2": transformers.GPT2Config(
        vocab_size=400, n_positions=640, n_embd=64, n_layer=2, n_head=4, initializer_range=0.3,
        bos_token_id=BOS, eos_token_id=None,
    ),
    "llama": transformers.LlamaConfig(
        vocab_size=400, max_position_embeddings=640, hidden_size=64, intermediate_size=96,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
        bos_token_id=None, eos_token_id=None,
    ),
}  # fmt: skip


def byte_level_bpe() -> Tokenizer:
    """400 tokens, as GPT-2's; token 0 is <|end|>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def make_decoder(family: str, folder: Path) -> Any:
    """Write a checkpoint to `folder`; returns the model of transformers, in float32."""
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[family]).eval()
    model.save_pretrained(folder)
    byte_level_bpe().save(str(folder / "tokenizer.json"))
    return model
