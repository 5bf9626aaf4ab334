"""Every architecture and option against transformers, in float32, on tiny random checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.tiny import CASES
from tests.tiny.case import LENGTHS, expected

import qkv
from qkv.generation import Generation


def sequences(vocab: int) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, vocab, n).tolist() for n in LENGTHS]


def outputs(model: qkv.Model, case: str) -> list[np.ndarray]:
    call = model.logits if CASES[case].has_logits else model.hidden_states
    return call(CASES[case].sequences(), **CASES[case].arguments())


def assert_equal(model: qkv.Model, case: str) -> None:
    for got, reference in zip(outputs(model, case), expected(CASES[case]), strict=True):
        assert got.shape == reference.shape
        assert np.abs(got - reference).max() <= 1e-4, f"{len(reference)} tokens"
        assert np.abs(reference).max() > 0.5  # the comparison means something


def rows(arrays: list[np.ndarray]) -> np.ndarray:
    """Rows to compare by their angle: hidden states, or logits; the few scores of a classifier all in one."""
    together = np.concatenate([np.atleast_2d(a) for a in arrays])
    return together if together.shape[1] > 16 else together.reshape(1, -1)


@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_transformers(case: str, tiny) -> None:
    assert_equal(qkv.load(tiny(case)), case)


@pytest.mark.parametrize("case", ["bert", "gpt2", "llama"])
def test_every_instruction_set(case: str, tiny, isa: str) -> None:
    assert_equal(qkv.load(tiny(case)), case)


# Smallest and mean cosine of a row. The tiny models' weights are large and their attention is sharp: a little noise
# turns some rows, which int4's single bar shows.
@pytest.mark.parametrize(
    ("dtype", "least", "mean"), [("bfloat16", 0.999, 0.9999), ("int8", 0.99, 0.999), ("int4", 0.6, 0.94)]
)
@pytest.mark.parametrize("case", CASES)
def test_weight_types_stay_close(case: str, dtype: str, least: float, mean: float, tiny) -> None:
    """A token that noise sends to another expert has another result. A random router is undecided about many, so its
    bar is for three quarters of them (transformers in bfloat16: a quarter is below 0.999); where routers are sure, the
    bar is for every row as in all other cases."""
    model = qkv.load(tiny(case), dtype=dtype)
    assert model.dtype == dtype
    got, reference = rows(outputs(model, case)), rows(expected(CASES[case]))
    cosines = (got * reference).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(reference, axis=1)
    assert cosines.mean() < 1 - 1e-6  # not the same weights
    if case.endswith("undecided"):
        assert np.quantile(cosines, 0.25) >= least
    else:
        assert cosines.min() >= least
        assert cosines.mean() >= mean


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case].generates])
def test_greedy_tokens_equal_transformers(case: str, tiny) -> None:
    tokens = 64 if "-" in case else 256  # a family's plain case is the long one
    reference = CASES[case].make()
    prompt = CASES[case].sequences()[2]
    with torch.no_grad():
        made = reference.generate(torch.tensor([prompt]), max_new_tokens=tokens, do_sample=False, eos_token_id=None)
    model = qkv.load(tiny(case))
    model.generation_config["eos_token_id"] = []
    result = model.generate(prompt, max_new_tokens=tokens)
    assert isinstance(result, Generation)
    assert result.token_ids == made[0, -tokens:].tolist()


@pytest.mark.parametrize("case", ["bert", "roberta", "albert", "distilbert", "gpt2", "llama"])
def test_hidden_states_of_all_layers(case: str, tiny) -> None:
    reference, model = CASES[case].make(), qkv.load(tiny(case))
    batch = CASES[case].sequences()
    last, layers = model.hidden_states(batch), model.hidden_states(batch, all_layers=True)
    for ids, one, got in zip(batch, last, layers, strict=True):
        with torch.no_grad():
            output = reference.base_model(torch.tensor([ids]), output_hidden_states=True)
        assert one.tobytes() == got[-1].tobytes()
        assert np.abs(one - output.last_hidden_state[0].numpy()).max() <= 1e-4
        expected = torch.cat(output.hidden_states).numpy()
        assert got.shape == expected.shape
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
