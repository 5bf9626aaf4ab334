"""Requests from threads and coroutines: the same bits as alone, and no page left over."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import qkv
from qkv.generation.options import Options
from qkv.generation.request import Request
from qkv.generation.scheduler import Scheduler

PROMPTS = ["To be, or not to be", "It was", "the question:", "To be, or not to sleep", "a"]
OPTIONS: list[dict[str, Any]] = [
    {"max_new_tokens": 30},
    {"max_new_tokens": 40, "do_sample": True, "seed": 3, "temperature": 1.5},
    {"max_new_tokens": 20, "repetition_penalty": 1.3},
    {"max_new_tokens": 25, "num_beams": 3},
    {"max_new_tokens": 30, "prompt_lookup_num_tokens": 4},
]


@pytest.fixture
def engine(model: qkv.Model) -> Iterator[qkv.Engine]:
    with qkv.Engine(model) as engine:
        yield engine
    assert model.kv_pool.reserved == 0
    model.kv_pool.clear()
    assert model.kv_pool.cache.pages_in_use == 0


def test_results_equal_those_alone(engine: qkv.Engine, model: qkv.Model) -> None:
    alone = [model.generate(p, **o) for p, o in zip(PROMPTS, OPTIONS, strict=True)]
    submitted = [engine.submit(p, **o) for p, o in zip(PROMPTS, OPTIONS, strict=True)]
    assert [s.result(timeout=60) for s in submitted] == alone


def test_streams_of_many_threads(engine: qkv.Engine, model: qkv.Model) -> None:
    alone = [model.generate(p, max_new_tokens=30).text for p in PROMPTS]
    got: list[str] = [""] * len(PROMPTS)

    def read(i: int) -> None:
        for piece in engine.stream(PROMPTS[i], max_new_tokens=30):
            got[i] += piece

    threads = [threading.Thread(target=read, args=(i,)) for i in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == alone


def test_coroutines(engine: qkv.Engine, model: qkv.Model) -> None:
    alone = [model.generate(p, max_new_tokens=30).text for p in PROMPTS]

    async def read(prompt: str) -> str:
        return "".join([piece async for piece in engine.stream(prompt, max_new_tokens=30)])

    async def both() -> tuple[list[str], Any]:
        texts = await asyncio.gather(*(read(p) for p in PROMPTS))
        return texts, await engine.submit(PROMPTS[0], max_new_tokens=30)

    texts, result = asyncio.run(both())
    assert texts == alone
    assert result.text == alone[0]


def test_cancelled_request(engine: qkv.Engine) -> None:
    stream = engine.stream("To be", max_new_tokens=600)
    pieces = iter(stream)
    first = next(pieces)
    stream.cancel()
    result = stream.result(timeout=60)
    assert result.finish_reason == "cancelled"
    assert result.text.startswith(first)
    assert len(result.token_ids) < 600


@pytest.mark.parametrize("way", ["drop", "break"])
def test_a_stream_nobody_reads_ends(engine: qkv.Engine, model: qkv.Model, way: str) -> None:
    stream = engine.stream("To be", max_new_tokens=600)
    delivery = stream._delivery
    if way == "break":
        for _ in stream:
            break
    else:
        del stream
    gc.collect()
    assert delivery.future.result(60)[0].finish_reason == "cancelled"


def test_cancelled_coroutine(engine: qkv.Engine) -> None:
    async def give_up() -> Any:
        stream = engine.stream("To be", max_new_tokens=600)

        async def read() -> None:
            async for _ in stream:
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return stream

    assert asyncio.run(give_up()).result(60).finish_reason == "cancelled"


def test_one_bad_request_harms_no_other(engine: qkv.Engine, model: qkv.Model) -> None:
    def raising(ids: np.ndarray, logits: np.ndarray) -> np.ndarray:
        if len(ids) > 12:
            raise KeyError("mine")
        return logits

    good = engine.submit("To be", max_new_tokens=40)
    bad = engine.submit("It was", max_new_tokens=40, logits_processor=raising)
    shapeless = engine.submit("It was", max_new_tokens=40, logits_processor=lambda ids, logits: logits[:-1])
    with pytest.raises(KeyError, match="mine"):
        bad.result(60)
    with pytest.raises(qkv.Error, match="expected float32"):
        shapeless.result(60)
    assert good.result(60) == model.generate("To be", max_new_tokens=40)


def test_bad_arguments_come_at_once(engine: qkv.Engine) -> None:
    for prompt, options, message in [
        ("a", {"max_new_tokens": 0}, "max_new_tokens"),
        (["a", "b"], {}, "one prompt at a time"),
        ("a", {"max_new_token": 3}, "max_new_tokens"),
    ]:
        with pytest.raises(qkv.Error, match=message):
            engine.submit(prompt, **options)
    with pytest.raises(qkv.Error, match="num_beams"):
        engine.stream("a", num_beams=2)


def test_closed_engine(model: qkv.Model) -> None:
    engine = qkv.Engine(model)
    running = engine.submit("To be", max_new_tokens=600)
    engine.close()
    engine.close()
    assert running.result(1).finish_reason == "cancelled"
    with pytest.raises(qkv.Error, match="closed"):
        engine.submit("a")


def test_priority(model: qkv.Model) -> None:
    """With room for one of them at a time, the one of higher priority goes before one that came earlier."""
    order: list[int] = []
    taken = model.kv_pool.reserve(model.kv_pool.max_pages - 8)
    assert taken
    with qkv.Engine(model) as engine:
        blocker = engine.submit("To be", max_new_tokens=250)
        submitted = [engine.submit("a", max_new_tokens=200, priority=p) for p in (0, 1)]
        for number, each in enumerate(submitted):
            each._delivery.future.add_done_callback(lambda _, n=number: order.append(n))
        blocker.cancel()
        for each in submitted:
            each.result(60)
    taken.release()
    assert order == [1, 0]


def test_cancelled_while_a_prompt_is_read(model: qkv.Model, pool: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is given up when it mostly works for what was cancelled; the other request does not notice."""
    expected = model.generate([7], max_new_tokens=20)
    begun, run = threading.Event(), model.run_batch
    ended: list[str] = []

    def slowly(outputs: Any, batch: Any, cancel: Any) -> Any:
        if batch.tokens < 100:  # a part of the long prompt has at least 128
            return run(outputs, batch, cancel)
        begun.set()
        for _ in range(1000):  # as a run of many seconds, which looks at `cancel` now and then
            if cancel.is_set():
                ended.append("cancelled")
                raise qkv.Cancelled("given up")
            threading.Event().wait(0.01)
        raise AssertionError("nobody cancelled")

    monkeypatch.setattr(model, "run_batch", slowly)
    with qkv.Engine(model) as engine:
        other = engine.submit([7], max_new_tokens=20)
        long = engine.submit(list(range(5, 399)) + list(range(5, 150)), max_new_tokens=20)
        assert begun.wait(60)
        long.cancel()
        assert long.result(60).finish_reason == "cancelled"
        assert other.result(60) == expected
    assert ended == ["cancelled"]


def test_what_ended_before_a_run_that_was_given_up_is_reported(model: qkv.Model, pool: Any, monkeypatch: Any) -> None:
    """A request is cancelled, and the next run, which no longer works for it, is cancelled, too."""
    scheduler, run = Scheduler(model), model.run_batch
    one, two = (Request(model, [5 + i], Options.choose(model, {"max_new_tokens": 9}), live=False) for i in range(2))
    scheduler.add(one)
    scheduler.add(two)
    scheduler.step()
    one.cancelled = True

    def given_up(*args: Any) -> Any:
        raise qkv.Cancelled("given up")

    monkeypatch.setattr(model, "run_batch", given_up)
    with pytest.raises(qkv.Cancelled):
        scheduler.step()
    monkeypatch.setattr(model, "run_batch", run)
    assert one in scheduler.step()
    while scheduler.busy:
        scheduler.step()
    assert two.results == [model.generate([6], max_new_tokens=9)]


def test_a_state_that_is_released_while_its_request_waits(engine: qkv.Engine, model: qkv.Model) -> None:
    state = model.generate([5, 6], max_new_tokens=3, keep_state=True).state
    taken = model.kv_pool.reserve(model.kv_pool.max_pages - model.kv_pool.reserved)
    bad = engine.submit([7], state=state, max_new_tokens=5)
    good = engine.submit([7], max_new_tokens=5)
    state.release()
    taken.release()
    with pytest.raises(qkv.Error, match="released"):
        bad.result(60)
    assert good.result(60) == model.generate([7], max_new_tokens=5)
