"""Streams, streamers, stop strings in the loop, and that no way to end leaks a page."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import transformers

import qkv


def test_stream_joined_is_the_text(model: qkv.Model, pool: Any) -> None:
    whole = model.generate("To be", max_new_tokens=60)
    got = list(model.generate("To be", max_new_tokens=60, stream=True))
    assert "".join(got) == whole.text
    assert len(got) > 20
    assert all(got)
    assert pool.reserved == 0


def test_stop_string_across_token_borders(model: qkv.Model, pool: Any) -> None:
    whole = model.generate("To be", max_new_tokens=60)
    tokens = [model.tokenizer.decode([token]) for token in whole.token_ids]
    at = next(i for i in range(4, 50) if tokens[i].isascii() and tokens[i + 1].isascii() and len(tokens[i + 1]) > 1)
    stop = tokens[at] + tokens[at + 1][:1]
    made = model.generate("To be", max_new_tokens=60, stop_strings=stop)
    assert made.finish_reason == "stop"
    assert made.text == whole.text[: whole.text.index(stop)]
    assert len(made.token_ids) < 60
    assert made.token_ids == whole.token_ids[: len(made.token_ids)]
    streamed = model.generate("To be", max_new_tokens=60, stop_strings=["never there", stop], stream=True)
    assert "".join(streamed) == made.text
    assert pool.reserved == 0


def test_a_held_back_tail_is_text_after_all(model: qkv.Model) -> None:
    whole = model.generate("To be", max_new_tokens=12)
    stop = whole.text[-1] + "\0 never"
    made = model.generate("To be", max_new_tokens=12, stop_strings=stop)
    assert made == whole
    assert "".join(model.generate("To be", max_new_tokens=12, stop_strings=stop, stream=True)) == whole.text


def test_function_as_streamer(model: qkv.Model) -> None:
    got: list[str] = []
    made = model.generate("To be", max_new_tokens=30, streamer=got.append)
    assert "".join(got) == made.text
    assert all(got)


def test_streamer_of_hugging_face(model: qkv.Model) -> None:
    puts: list[np.ndarray] = []

    class Recorder:
        ended = 0

        def put(self, value: np.ndarray) -> None:
            puts.append(value)

        def end(self) -> None:
            self.ended += 1

    recorder = Recorder()
    made = model.generate([5, 6, 7], max_new_tokens=10, streamer=recorder)
    assert [put.tolist() for put in puts] == [[5, 6, 7], *([token] for token in made.token_ids)]
    assert recorder.ended == 1


def test_real_streamer_of_transformers(twins: Any) -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(twins.folder / "tokenizer.json"))
    streamer = transformers.TextIteratorStreamer(tokenizer, skip_prompt=True)
    options = {"max_new_tokens": 20, "streamer": streamer}
    thread = threading.Thread(target=twins.ours.generate, args=([5, 6],), kwargs=options)
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tokenizer.decode(twins.ours.generate([5, 6], max_new_tokens=20).token_ids)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_dropped_stream_frees_its_pages(model: qkv.Model, pool: Any, steps: int) -> None:
    stream = model.generate("To be", max_new_tokens=100, stream=True)
    for _ in range(steps):
        next(stream)
    assert bool(pool.reserved) == bool(steps)
    stream.close()
    assert pool.reserved == 0
    stream = model.generate("To be", max_new_tokens=100, stream=True)
    next(stream)
    del stream
    assert pool.reserved == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_streamer_that_raises(model: qkv.Model, pool: Any, error: type[BaseException]) -> None:
    def raising(piece: str) -> None:
        raise error

    with pytest.raises(error):
        model.generate("To be", streamer=raising)
    assert pool.reserved == 0


@pytest.mark.parametrize("error", [qkv.Error, KeyboardInterrupt])
def test_run_that_raises(
    model: qkv.Model, pool: Any, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    expected = model.generate([[5] * 60, [5]], max_new_tokens=100)
    pool.clear()
    run = model.run_batch

    def raising(outputs: Any, batch: Any, cancel: Any) -> Any:
        if max(batch.past) > 70:
            assert pool.pages_in_use >= 2 + 1
            raise error
        return run(outputs, batch, cancel)

    monkeypatch.setattr(model, "run_batch", raising)
    with pytest.raises(error):
        model.generate([[5] * 60, [5]], max_new_tokens=100)
    assert pool.reserved == 0
    monkeypatch.undo()
    assert model.generate([[5] * 60, [5]], max_new_tokens=100) == expected


def test_a_finished_sequence_gives_room_at_once(model: qkv.Model, pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    reserved: list[int] = []
    run = model.run_batch

    def noting(*args: Any) -> Any:
        reserved.append(pool.reserved)
        return run(*args)

    others = model.generate([9], max_new_tokens=20).token_ids
    token = next(t for t in model.generate([5], max_new_tokens=20).token_ids[:-1] if t not in others)
    monkeypatch.setattr(model, "run_batch", noting)
    model.generate([[5], [9]], max_new_tokens=20, eos_token_id=token)
    assert reserved[0] == 2 * reserved[-1]


@pytest.mark.parametrize("options", [{"stream": True}, {"streamer": print}])
@pytest.mark.parametrize("prompts", [["a", "b"], [[5]], []])
def test_streaming_wants_one_prompt(model: qkv.Model, options: dict[str, Any], prompts: Any) -> None:
    with pytest.raises(qkv.Error, match="single prompt"):
        model.generate(prompts, **options)
