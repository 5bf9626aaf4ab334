"""How long a text goes on after somebody has ended it, so and so many seconds after its beginning."""

from __future__ import annotations

import os
import signal
import threading
import time

import qkv


def cancelled(model: qkv.Model, prompt: list[int], delay: float) -> float:
    """Seconds from cancel() to the result."""
    model.kv_pool.clear()
    with qkv.Engine(model) as engine:
        submitted = engine.submit(prompt, max_new_tokens=1023 - len(prompt))
        time.sleep(delay)
        start = time.perf_counter()
        submitted.cancel()
        result = submitted.result()
        passed = time.perf_counter() - start
    assert isinstance(result, qkv.Generation)
    assert result.finish_reason == "cancelled", result.finish_reason
    return passed


def interrupted(model: qkv.Model, prompt: list[int], delay: float) -> float:
    """Seconds from the signal to the exception."""
    sent = 0.0

    def send() -> None:
        nonlocal sent
        sent = time.perf_counter()
        os.kill(os.getpid(), signal.SIGINT)

    model.kv_pool.clear()
    timer = threading.Timer(delay, send)
    timer.start()
    try:
        model.generate(prompt, max_new_tokens=1023 - len(prompt))
    except KeyboardInterrupt:
        return time.perf_counter() - sent
    finally:
        timer.cancel()
    raise RuntimeError("the text was done before Ctrl-C: nothing to measure")
