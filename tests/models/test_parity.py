"""Every architecture and option against transformers, in float32, on tiny random checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.tiny import CASES

import qkv

LENGTHS = (1, 2, 17, 63, 64, 65, 190)
DECODERS = [case for case in CASES if not case.startswith("bert") and case != "gpt2-base"]


def sequences(vocab: int) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, vocab, n).tolist() for n in LENGTHS]


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_transformers(case: str, tiny, isa: str) -> None:
    reference = CASES[case].make()
    model = qkv.load(tiny(case))
    batch = sequences(model.vocab_size)
    ours = model.logits(batch) if case in DECODERS else model.hidden_states(batch)
    for ids, got in zip(batch, ours, strict=True):
        with torch.no_grad():
            base = getattr(reference, reference.base_model_prefix, reference)
            expected = (
                reference(torch.tensor([ids])).logits
                if case in DECODERS
                else base(torch.tensor([ids])).last_hidden_state
            )[0].numpy()
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 1e-4, f"{len(ids)} tokens"
        assert np.abs(expected).max() > 0.5  # the comparison means something


# Smallest and mean cosine of a row. The tiny models' weights are large and their attention is sharp: a little noise
# turns some rows, which int4's single bar shows.
@pytest.mark.parametrize(
    ("dtype", "least", "mean"), [("bfloat16", 0.999, 0.9999), ("int8", 0.99, 0.999), ("int4", 0.6, 0.94)]
)
@pytest.mark.parametrize("case", CASES)
def test_weight_types_stay_close(case: str, dtype: str, least: float, mean: float, tiny) -> None:
    reference = CASES[case].make()
    model = qkv.load(tiny(case), dtype=dtype)
    assert model.dtype == dtype
    batch = sequences(model.vocab_size)
    got = np.concatenate(model.logits(batch) if case in DECODERS else model.hidden_states(batch))
    with torch.no_grad():
        base = getattr(reference, reference.base_model_prefix, reference)
        outputs = [reference(torch.tensor([ids])) if case in DECODERS else base(torch.tensor([ids])) for ids in batch]
    expected = np.concatenate([(o.logits if case in DECODERS else o.last_hidden_state)[0].numpy() for o in outputs])
    cosines = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= least
    assert mean <= cosines.mean() < 1 - 1e-6  # and not the same weights


@pytest.mark.parametrize("case", ["gpt2", "llama"])
def test_hidden_states_of_decoders(case: str, tiny) -> None:
    reference, model = CASES[case].make(), qkv.load(tiny(case))
    batch = sequences(model.vocab_size)
    for ids, got in zip(batch, model.hidden_states(batch), strict=True):
        with torch.no_grad():
            expected = reference.base_model(torch.tensor([ids])).last_hidden_state[0].numpy()
        assert np.abs(got - expected).max() <= 1e-4


def test_token_types(tiny) -> None:
    reference, model = CASES["bert"].make(), qkv.load(tiny("bert"))
    ids, types = [5, 6, 7, 8, 9], [0, 1, 2, 1, 0]
    with torch.no_grad():
        expected = reference(torch.tensor([ids]), token_type_ids=torch.tensor([types])).last_hidden_state[0].numpy()
    got = model.hidden_states([ids], [types])[0]
    assert np.abs(got - expected).max() <= 1e-4
    assert np.abs(got - model.hidden_states([ids])[0]).max() > 1e-2  # the types do something


@pytest.mark.parametrize("case", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_half_precision_checkpoints(case: str, stored: torch.dtype, tmp_path, isa: str) -> None:
    """dtype="auto" keeps bfloat16 and widens float16; both stay close to transformers on the same rounded weights."""
    CASES[case].make().to(stored).save_pretrained(tmp_path)
    reference = type(CASES[case].make()).from_pretrained(tmp_path, dtype=torch.float32).eval()
    model = qkv.load(tmp_path)
    assert model.dtype == ("bfloat16" if stored == torch.bfloat16 else "float32")
    ids = sequences(model.vocab_size)[4]
    with torch.no_grad():
        expected = reference.base_model(torch.tensor([ids])).last_hidden_state[0].numpy()
    got = model.hidden_states([ids])[0]
    if stored == torch.float16:
        assert np.abs(got - expected).max() <= 1e-4
    cosines = (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.999


@pytest.mark.parametrize("case", ["bert", "gpt2", "llama"])
def test_bfloat16_weights_of_a_float32_checkpoint(case: str, tiny, isa: str) -> None:
    full, half = qkv.load(tiny(case)), qkv.load(tiny(case), dtype="bfloat16")
    assert half.nbytes < 0.65 * full.nbytes
    ids = sequences(full.vocab_size)
    for a, b in zip(full.hidden_states(ids), half.hidden_states(ids), strict=True):
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert 0.999 <= cosines.min() < 1  # close, and not the same weights


def test_sharded_checkpoint_equals_single_file(tiny, tmp_path) -> None:
    CASES["llama"].make().save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    ids = sequences(100)
    for a, b in zip(qkv.load(tmp_path).logits(ids), qkv.load(tiny("llama")).logits(ids), strict=True):
        assert a.tobytes() == b.tobytes()
