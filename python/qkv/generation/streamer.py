"""Who listens while text is made: a function of text, or an object like Hugging Face's streamers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from qkv.errors import Error


class TokenStreamer(Protocol):
    """What Hugging Face's streamers look like."""

    def put(self, value: Any) -> None: ...

    def end(self) -> None: ...


Streamer = TokenStreamer | Callable[[str], object]
Listener = Callable[[int, str], object]  # called with each new token and the text that became certain with it


@contextmanager
def listening(streamer: Streamer | None, prompt: Sequence[int]) -> Iterator[Listener]:
    """Calls of the listener reach the streamer; its `end`, too, is called, however the work ends.

    Raises:
        qkv.Error: the streamer is neither kind.
    """
    put, end = getattr(streamer, "put", None), getattr(streamer, "end", None)
    if callable(put) and callable(end):
        try:
            put(np.array(prompt, np.int64))
            yield lambda token, piece: put(np.array([token], np.int64))
        finally:
            end()
    elif callable(streamer):
        yield lambda token, piece: streamer(piece) if piece else None
    elif streamer is None:
        yield lambda token, piece: None
    else:
        raise Error(f"streamer is {streamer!r:.60}; expected a function, or an object with put and end")
