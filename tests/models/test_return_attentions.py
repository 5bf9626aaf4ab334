"""Attention weights on request, against transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.tiny import CASES

import qkv
from qkv import _ext
from qkv.attentions import AttentionWeights

LENGTHS = (1, 17, 70, 190)


def sequences() -> list[list[int]]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 100, n).tolist() for n in LENGTHS]


@pytest.mark.parametrize("case", ["bert", "gpt2", "llama", "mixtral-window"])
def test_weights_equal_transformers(case: str, tiny) -> None:
    model, reference = qkv.load(tiny(case)), CASES[case].make()
    reference.set_attn_implementation("eager")
    call = model.hidden_states if case == "bert" else model.logits
    rows, attentions = call(sequences(), return_attentions=True)
    assert [r.tobytes() for r in rows] == [r.tobytes() for r in call(sequences())]
    for ids, layers in zip(sequences(), attentions, strict=True):
        with torch.no_grad():
            expected = reference(torch.tensor([ids]), output_attentions=True).attentions
        for got, theirs in zip(layers, expected, strict=True):
            weights = theirs[0].numpy()
            assert got.shape == weights.shape
            assert got.dtype == np.float32
            assert np.abs(got - weights).max() <= 1e-5
            assert (got[weights == 0] == 0).all()


def test_what_tokens_do_not_see_is_0(tiny) -> None:
    _, ((weights, _),) = qkv.load(tiny("mixtral-window")).logits([list(range(50))], return_attentions=True)
    distance = np.arange(50) - np.arange(50)[:, None]
    assert ((weights == 0) == ((distance > 0) | (distance <= -30))).all()


def test_some_layers(tiny) -> None:
    model = qkv.load(tiny("gpt2"))
    _, every = model.hidden_states(sequences(), return_attentions=True)
    for layers in ([1], [2, 0], (0, 0), np.array([1, 2]), []):
        _, some = model.hidden_states(sequences(), return_attentions=layers)
        assert len(some) == len(LENGTHS)
        for got, all_of_them in zip(some, every, strict=True):
            assert [a.tobytes() for a in got] == [all_of_them[i].tobytes() for i in layers]


@pytest.mark.parametrize("kv_dtype", ["float32", "bfloat16", "int8"])
def test_bits_depend_on_no_other_sequence_and_on_no_thread(kv_dtype: str, tiny, isa: str) -> None:
    def weights(threads: int, batch: list[list[int]]) -> list[bytes]:
        model = qkv.load(tiny("llama"), kv_dtype=kv_dtype, num_threads=threads)
        return [a.tobytes() for layers in model.logits(batch, return_attentions=True)[1] for a in layers]

    together = weights(1, sequences())
    assert weights(3, sequences()) == together
    assert [a for ids in sequences() for a in weights(2, [ids])] == together


def test_with_a_cache(tiny) -> None:
    """The rows of later tokens, over all keys, have the bits of a run of everything at once."""
    model, ids = qkv.load(tiny("llama"), num_threads=2), sequences()[-1]
    _, (whole,) = model.logits([ids], return_attentions=True)
    cache = model.new_cache(len(ids))
    pages = [cache.allocate() for _ in range(-(-len(ids) // _ext.page_tokens))]
    for first, end in ((0, 100), (100, 101), (101, 190)):
        heads = model.program.attention_heads
        arrays = [[np.empty((h, end - first, end), np.float32)] for h in heads]
        new = np.array(ids[first:end], np.int32)
        model.run("hidden_states", [new], past=[first], cache=cache, pages=[pages], weights=arrays)
        for (got,), expected in zip(arrays, whole, strict=True):
            np.testing.assert_array_equal(got, expected[:, first:end, :end])


def test_empty_sequences(tiny_bert) -> None:
    model = qkv.load(tiny_bert)
    assert model.hidden_states([], return_attentions=True) == ([], [])
    _, weights = model.hidden_states([[], [5, 6]], return_attentions=[0])
    assert [a.shape for (a,) in weights] == [(5, 0, 0), (5, 2, 2)]
    _, weights = model.hidden_states([[]], return_attentions=[0])
    assert weights[0][0].shape == (5, 0, 0)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([2], r"no layer 2; the model has 2 \(0 ... 1\)"),
        ([-1], "no layer -1"),
        ([0.5], "expected True or a list of layers"),
        ("all", "expected True or a list of layers"),
        (1, "expected True or a list of layers"),
        (None, "expected True or a list of layers"),
    ],
)
def test_layers_that_there_are_not(layers, message: str, tiny_bert) -> None:
    with pytest.raises(qkv.Error, match=f"return_attentions: .*{message}"):
        qkv.load(tiny_bert).hidden_states([[1, 2]], return_attentions=layers)


def test_a_program_without_attention() -> None:
    with pytest.raises(qkv.Error, match="this model has no attention"):
        AttentionWeights(True, heads=[], sizes=[(3, 3)])


def test_length_is_checked_before_memory_is_taken(tiny_bert) -> None:
    with pytest.raises(qkv.Error, match="at most 200"):
        qkv.load(tiny_bert).hidden_states([[1] * 100_000], return_attentions=True)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([[np.zeros((5, 3, 3), np.float32)]], "has 45 values, not 20"),
        ([[np.zeros((5, 2, 2), np.float32)] * 2], "2 arrays for 1 sequences"),
        ([[], [], []], "of 3 steps, and the model has 2"),
        ([[np.zeros((5, 2, 2))]], "C-contiguous float32"),
        ([[np.zeros((2, 2, 5), np.float32).T]], "C-contiguous float32"),
        ([[5]], "C-contiguous float32"),
    ],
)
def test_arrays_that_do_not_fit(weights, message: str, tiny_bert) -> None:
    with pytest.raises(qkv.Error, match=message):
        qkv.load(tiny_bert).run("hidden_states", [np.array([1, 2], np.int32)], weights=weights)


@pytest.mark.parametrize("case", ["t5", "bart", "marian"])
def test_encoder_decoders(case: str, tiny) -> None:
    """All three kinds: of the encoder, of the decoder, and between them."""
    reference, model = CASES[case].make(), qkv.load(tiny(case))
    reference.set_attn_implementation("eager")
    sources, targets = CASES[case].sequences()[1:4], [[5, 6, 7], [8], list(range(70))]
    _, own = model.logits(sources, decoder_ids=targets, return_attentions=True)
    encoder, cross = model.encoder_attentions(sources), model.cross_attentions(sources, targets)
    for s, (source, target) in enumerate(zip(sources, targets, strict=True)):
        with torch.no_grad():
            found = reference(torch.tensor([source]), decoder_input_ids=torch.tensor([target]), output_attentions=True)
        for ours, theirs in (
            (encoder[s], found.encoder_attentions),
            (own[s], found.decoder_attentions),
            (cross[s], found.cross_attentions),
        ):
            assert len(ours) == len(theirs)
            for mine, other in zip(ours, theirs, strict=True):
                assert np.abs(mine - other[0].numpy()).max() <= 1e-5
    assert model.cross_attentions(sources, targets, [0])[0][0].tobytes() == cross[0][0].tobytes()
    with pytest.raises(qkv.Error, match="there is no layer 9"):
        model.encoder_attentions(sources, [9])


def test_encoders_and_decoders_alone_have_one_kind(tiny_bert, tiny_gpt2) -> None:
    with pytest.raises(qkv.Error, match="no encoder that a decoder reads from"):
        qkv.load(tiny_bert).encoder_attentions([[1]])
    with pytest.raises(qkv.Error, match="this one has only one of them"):
        qkv.load(tiny_gpt2).cross_attentions([[1]], [[1]])
