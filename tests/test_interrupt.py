"""Runs that end early: Ctrl-C in Python's main thread, and cancelling from another."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import qkv
from qkv import _ext
from qkv.batches import make_batch

# 20 million weights: 1500 tokens are more than half a second of work for one core.
SIZES = {"vocab_size": 300, "hidden_size": 768, "num_hidden_layers": 3, "num_attention_heads": 12, "pad_token_id": 0}
LLAMA = SIZES | {"intermediate_size": 2048, "max_position_embeddings": 2048, "bos_token_id": 1, "eos_token_id": None}
T5 = {
    "vocab_size": 300, "d_model": 768, "d_ff": 2048, "num_layers": 3, "num_heads": 12, "d_kv": 64,
    "num_decoder_layers": 1, "pad_token_id": 0, "decoder_start_token_id": 0,
}  # fmt: skip
TOKENS = 1500
IDS = np.random.default_rng(0).integers(3, 300, TOKENS, dtype=np.int32)


class Watched:
    """A program that says when a run has begun, and keeps what it returned.

    Attributes:
        begun: called at the beginning of the next run.
        finished: results of the runs that were not interrupted. The map hands them on without Python code in between,
            where a signal that came during the run would be handled after it.
    """

    def __init__(self, program: _ext.Program) -> None:
        self._program = program
        self.begun: Callable[[], object] = lambda: None
        self.finished: list[list[np.ndarray]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._program, name)

    def run(self, *arguments: Any) -> list[np.ndarray]:
        begun, self.begun = self.begun, lambda: None
        begun()
        self.finished.extend(map(self._program.run, *([argument] for argument in arguments)))
        return self.finished[-1]


def soon(action: Callable[[], object]) -> Callable[[], None]:
    """What another thread does, a moment after this is called."""

    def later() -> None:
        time.sleep(0.03)
        action()

    return lambda: threading.Thread(target=later).start()


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(autouse=True)
def sigint() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    yield
    signal.signal(signal.SIGINT, before)


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return saved(transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)), tmp_path_factory.mktemp("llama"))


@pytest.fixture(params=[1, 2])
def decoder(decoder_folder: Path, request: pytest.FixtureRequest) -> qkv.Model:
    return watched(decoder_folder, request.param)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> qkv.Model:
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**T5))
    return watched(saved(model, tmp_path_factory.mktemp("t5")), 1)


def watched(folder: Path, threads: int) -> qkv.Model:
    model = qkv.load(folder, num_threads=threads)
    model.program = Watched(model.program)  # type: ignore[assignment]
    if model.encoder:
        model.encoder = Watched(model.encoder)  # type: ignore[assignment]
    return model


def prefill(model: qkv.Model, cache: _ext.KVCache, pages: list[int], begin: int, end: int) -> Any:
    return model.run("logits", [IDS[begin:end]], wanted="last", past=[begin], cache=cache, pages=[pages])


def test_ctrl_c_in_prefill(decoder: Any) -> None:
    cache = decoder.new_cache(TOKENS)
    pages = [cache.allocate() for _ in range(cache.max_pages)]
    first = 70  # positions that must stay as they are
    prefill(decoder, cache, pages, 0, first)
    decoder.program.finished.clear()
    decoder.program.begun = soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        prefill(decoder, cache, pages, first, TOKENS)
    assert decoder.program.finished == []

    again = prefill(decoder, cache, pages, first, TOKENS)
    other = decoder.new_cache(TOKENS)
    other_pages = [other.allocate() for _ in range(other.max_pages)]
    np.testing.assert_array_equal(again, prefill(decoder, other, other_pages, 0, TOKENS))


def test_ctrl_c_without_a_cache(decoder: Any) -> None:
    decoder.program.begun = soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        decoder.hidden_states([IDS, IDS[:10]])
    assert decoder.program.finished == []
    (short,) = decoder.hidden_states([IDS[:10]])
    np.testing.assert_array_equal(decoder.hidden_states([IDS, IDS[:10]])[1], short)


def test_ctrl_c_in_generate(decoder: Any) -> None:
    prompts = [IDS.tolist(), IDS[:9].tolist()]
    decoder.program.begun = soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        decoder.generate(prompts, max_new_tokens=3)
    assert decoder.program.finished == []
    results = decoder.generate(prompts, max_new_tokens=3)
    assert results[1].token_ids == decoder.generate(prompts[1], max_new_tokens=3).token_ids


def test_ctrl_c_in_an_encoder(both: Any) -> None:
    both.encoder.begun = soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        both.generate(IDS.tolist(), max_new_tokens=2)
    assert both.encoder.finished == []
    assert len(both.generate(IDS.tolist(), max_new_tokens=2).token_ids) == 2


def test_whatever_a_handler_raises_comes_out(decoder: Any) -> None:
    def handler(*_: object) -> None:
        decoder.hidden_states([IDS[:30]])  # runs on the same thread, in the middle of the other run
        raise ZeroDivisionError

    decoder.program.begun = soon(interrupt)
    signal.signal(signal.SIGINT, handler)
    with pytest.raises(ZeroDivisionError):
        decoder.hidden_states([IDS])
    assert len(decoder.program.finished) == 1


def test_a_handler_that_raises_nothing_changes_nothing(decoder: Any) -> None:
    expected = decoder.hidden_states([IDS])
    calls = []
    signal.signal(signal.SIGINT, lambda *_: calls.append(decoder.hidden_states([IDS[:30]])[0]))
    decoder.program.begun = soon(interrupt)
    found = decoder.hidden_states([IDS])
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(calls[0], expected[0][:30])


def test_cancel_from_another_thread(decoder: Any) -> None:
    expected = decoder.run("hidden_states", [IDS])
    cancel = _ext.Cancel()
    assert not cancel.is_set()
    decoder.program.begun = soon(cancel.set)
    with pytest.raises(qkv.Cancelled, match="cancelled"):
        decoder.run_batch(["hidden_states"], make_batch([IDS]), cancel)
    assert cancel.is_set()
    with pytest.raises(qkv.Cancelled):
        decoder.run_batch(["hidden_states"], make_batch([IDS[:1]]), cancel)
    (again,) = decoder.run_batch(["hidden_states"], make_batch([IDS]), _ext.Cancel())
    np.testing.assert_array_equal(again, expected)


def test_cancel_an_encoder(both: Any) -> None:
    cancel = _ext.Cancel()
    both.encoder.begun = soon(cancel.set)
    with pytest.raises(qkv.Cancelled):
        both.read_source([IDS], cancel=cancel)
    assert both.read_source([IDS]).lengths == [TOKENS]


def test_ctrl_c_does_not_reach_runs_of_other_threads(decoder: Any) -> None:
    expected = decoder.run("hidden_states", [IDS])
    found: SimpleQueue[np.ndarray] = SimpleQueue()
    decoder.program.begun = soon(interrupt)
    threading.Thread(target=lambda: found.put(decoder.run("hidden_states", [IDS]))).start()
    with pytest.raises(KeyboardInterrupt):
        found.get(timeout=60)
    np.testing.assert_array_equal(found.get(timeout=60), expected)


def test_ctrl_c_while_a_weight_is_packed() -> None:
    weight = _ext.Weight(8192, 4096, "int4", "panels")  # int8 is done before the signal comes on a fast machine
    rows = np.zeros((8192, 4096), np.float32)
    filled: list[None] = []
    soon(interrupt)()
    with pytest.raises(KeyboardInterrupt):
        filled.extend(map(weight.fill, [rows], [0], [0], [1]))
    assert filled == []
