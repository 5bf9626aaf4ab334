"""The 2017 Transformer against torch.nn.Transformer between two tables of embeddings, in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import qkv

# why torch takes its slower path
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor")

VOCAB = 101
BASE = {
    "model_type": "transformer", "vocab_size": VOCAB, "d_model": 48, "nhead": 2, "num_encoder_layers": 2,
    "num_decoder_layers": 1, "dim_feedforward": 77, "final_norm": True, "max_positions": 200,
    "decoder_start_token_id": 3, "eos_token_id": 2,
}  # fmt: skip
SOURCES = [[7], [5, 6, 7, 8], list(range(90)), [9] * 65]
TARGETS = [[3, 4, 5], [3], [3, *range(40)], [3, 1] * 32]

CASES: dict[str, dict[str, Any]] = {
    "post-norm": {},
    "paper": {"final_norm": None},  # no norm behind the last layer
    "pre-norm": {"norm_first": True, "activation": "gelu", "layer_norm_eps": 1e-3},
    "offset": {"sinusoids": "concatenated", "position_offset": 2, "scale_embeddings": False},
    "shared": {"share_embeddings": True, "tie_output": True, "d_model": 45, "nhead": 3},
    "two-vocabularies": {"target_vocab_size": 67, "tie_output": False, "bias": False},
}


class Reference(torch.nn.Module):
    """torch's layers, and what the config adds to them."""

    def __init__(self, c: dict[str, Any]) -> None:
        super().__init__()
        names = ("d_model", "nhead", "num_encoder_layers", "num_decoder_layers", "dim_feedforward")
        options = {name: c[name] for name in ("activation", "layer_norm_eps", "norm_first", "bias") if name in c}
        self.transformer = torch.nn.Transformer(**{n: c[n] for n in names}, **options, batch_first=True, dropout=0.0)
        targets = c.get("target_vocab_size", VOCAB)
        self.source_embedding = torch.nn.Embedding(VOCAB, c["d_model"])
        self.target_embedding = torch.nn.Embedding(targets, c["d_model"])
        self.output = torch.nn.Linear(c["d_model"], targets)
        if c.get("share_embeddings"):
            self.target_embedding = self.source_embedding
        if c.get("tie_output", True):
            self.output.weight = self.target_embedding.weight
        if not c.get("final_norm", c.get("norm_first")):
            self.transformer.encoder.norm = self.transformer.decoder.norm = None
        self.c = c

    def embed(self, table: torch.nn.Embedding, ids: list[int]) -> torch.Tensor:
        x = table(torch.tensor([ids]))
        if self.c.get("scale_embeddings", True):
            x = x * self.c["d_model"] ** 0.5
        return x + self.positions(len(ids))

    def positions(self, count: int) -> torch.Tensor:
        """Section 3.5 of the paper, one value at a time."""
        width, first = self.c["d_model"], self.c.get("position_offset", 0)
        rows = []
        for position in range(first, first + count):
            angles = [position / 10000 ** (2 * (i // 2) / width) for i in range(width)]
            row = [np.cos(angle) if i % 2 else np.sin(angle) for i, angle in enumerate(angles)]
            rows.append(row[0::2] + row[1::2] if self.c.get("sinusoids") == "concatenated" else row)
        return torch.tensor(np.array(rows), dtype=torch.float32)

    def forward(self, source: list[int], target: list[int]) -> torch.Tensor:
        mask = torch.nn.Transformer.generate_square_subsequent_mask(len(target))
        x, y = self.embed(self.source_embedding, source), self.embed(self.target_embedding, target)
        return self.output(self.transformer(x, y, tgt_mask=mask, tgt_is_causal=True))[0]


def make(case: str, folder: Path, **changes: Any) -> Reference:
    torch.manual_seed(0)
    config = {name: value for name, value in (BASE | CASES[case]).items() if value is not None}
    model = Reference(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
        model.source_embedding.weight.mul_(0.3)
    tensors, seen = {}, set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:  # shared ones once, under their first name
            tensors[name] = tensor.contiguous()
            seen.add(tensor.data_ptr())
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | changes))
    return model


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_torch(case: str, tmp_path: Path) -> None:
    reference, model = make(case, tmp_path), qkv.load(tmp_path)
    targets = [[token % 67 for token in ids] for ids in TARGETS]
    for source, target, got in zip(SOURCES, targets, model.logits(SOURCES, decoder_ids=targets), strict=True):
        with torch.no_grad():
            expected = reference(source, target).numpy()
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 1e-4
        assert np.abs(expected).max() > 0.5


@pytest.mark.parametrize("case", ["paper", "pre-norm"])
def test_greedy_tokens_equal_torch(case: str, tmp_path: Path) -> None:
    reference, model = make(case, tmp_path, eos_token_id=None), qkv.load(tmp_path)
    ids = [3]
    with torch.no_grad():
        for _ in range(64):
            ids.append(int(reference(SOURCES[2], ids)[-1].argmax()))
    assert model.generate(SOURCES[2], max_new_tokens=64).token_ids == ids[1:]


def test_packed(tmp_path: Path) -> None:
    make("shared", tmp_path)
    qkv.pack(tmp_path, tmp_path / "model.qkv", dtype="int8")
    one, two = (qkv.load(path, dtype="int8") for path in (tmp_path, tmp_path / "model.qkv"))
    for a, b in zip(*(m.logits(SOURCES, decoder_ids=TARGETS) for m in (one, two)), strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nhead": 5}, "d_model 48 is not divisible by nhead 5"),
        ({"max_positions": 2**24}, "max_positions 16777216 times d_model 48 is more than"),
        ({"position_offset": 2**24}, "position_offset 16777216 times d_model 48 is more than"),
        ({"sinusoids": "learned"}, "sinusoids 'learned': interleaved or concatenated"),
        ({"activation": "mish"}, "'mish' is not supported"),
        ({"share_embeddings": True, "target_vocab_size": 67}, "target_vocab_size 67"),
        ({"num_decoder_layers": 2}, "no tensor 'transformer.decoder.layers.1"),
        ({"tie_output": False}, "no tensor 'output.weight'"),
        ({"d_model": 46}, r"expected shape \[101, 46\]"),
    ],
)
def test_configs_that_do_not_fit(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    make("post-norm", tmp_path, **changes)
    with pytest.raises(qkv.Error, match=message):
        qkv.load(tmp_path)
