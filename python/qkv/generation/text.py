"""Text while it is made: tokens to text piece by piece, and stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_UNKNOWN = "\ufffd"  # stands for bytes that are no character, or not yet one
_WINDOW = 8  # decoding starts anew once the window has so many tokens
_OVERLONG = 64  # no honest character takes so many tokens


class Detokenizer:
    """Turns tokens into text piece by piece; a piece that was returned is never changed by later tokens.

    What a token adds to the text depends on its neighbours: a character may span tokens, and a leading space
    belongs to the text only where something precedes it. So a window of recent tokens is decoded together,
    and a piece is what the window's text gained. A tail of U+FFFD is held back while it may still become a
    character. The window moves on where nothing is held back, so that the work per token is bounded.

    Args:
        tokenizer: the tokenizer.
        context: the tokens before the first one pushed (the prompt); their text is not returned.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._window = self._tail(context)
        text = self._decode(self._window)
        self._shown = len(text) - _held(text)
        # The window's tokens up to here are complete characters.
        self._clean = len(self._window) if self._shown == len(text) else 0

    def copy(self) -> Detokenizer:
        """One that goes on from here by itself."""
        twin = copy(self)
        twin._window = list(self._window)
        return twin

    def push(self, token: int) -> str:
        """Add a token; returns the text that is certain now, often a word, sometimes nothing."""
        self._window.append(token)
        text = self._decode(self._window)
        held = _held(text)
        overlong = len(self._window) > _OVERLONG
        if overlong:  # noise, but its last three bytes might still begin a character
            held = min(held, 3)
        piece = text[self._shown : len(text) - held]
        self._shown += len(piece)
        if overlong:
            self._clean = len(self._window)
            self._move(self._clean - _OVERLONG // 4, held)
        elif held == 0:
            start, self._clean = self._clean, len(self._window)
            if len(self._window) > _WINDOW:
                self._move(start, 0)
        return piece

    def read(self, tokens: Sequence[int]) -> str:
        """The text of all tokens that follow, which nobody wants in pieces: `push` and `finish` give the same later."""
        self._window += tokens
        return self.finish()

    def finish(self) -> str:
        """The text still held back; the end of the text makes it certain."""
        piece = self._decode(self._window)[self._shown :]
        self._shown += len(piece)
        return piece

    def _tail(self, context: Sequence[int]) -> list[int]:
        """The last few tokens of the context, or more where these begin within a character."""
        size = _WINDOW // 2
        while size < len(context) and self._decode(context[-size:])[:1] in ("", _UNKNOWN):
            size *= 2
        return list(context[-size:])

    def _move(self, start: int, held: int) -> None:
        """Drop the window's tokens before `start`, unless the rest has no text that could carry on."""
        text = self._decode(self._window[start:])
        if len(text) > held:
            del self._window[:start]
            self._clean -= start
            self._shown = len(text) - held

    def _decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True)


def _held(text: str) -> int:
    return len(text) - len(text.rstrip(_UNKNOWN))


class StopStrings:
    """Finds stop strings in text that comes in pieces, however these are cut.

    The text ends before the stop string whose last character comes first (of two that end together, the
    longer one). What might be the beginning of a stop string is held back until that is decided.
    """

    def __init__(self, stop_strings: Sequence[str] = ()) -> None:
        self._stops = stop_strings
        self._held = ""
        self.found = False

    def push(self, piece: str) -> str:
        """Add text; returns the text that is certainly before any stop string. After a stop it is empty."""
        if self.found:
            return ""
        text = self._held + piece
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.found = True
            self._held = ""
            return text[: min(ends)[1]]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self) -> str:
        """The text held back, which turned out to be no stop string."""
        piece, self._held = self._held, ""
        return piece


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop` without being all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class TextStream:
    """The text of one generation: tokens in, certain text before any stop string out.

    Attributes:
        text: everything returned so far.
        stopped: whether a stop string was found; nothing follows it.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = (), stop_strings: Sequence[str] = ()) -> None:
        self._detokenizer = Detokenizer(tokenizer, context)
        self._stops = StopStrings(stop_strings)
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    @property
    def stopped(self) -> bool:
        return self._stops.found

    def copy(self) -> TextStream:
        """One that goes on from here by itself."""
        twin = copy(self)
        twin._detokenizer = self._detokenizer.copy()
        twin._stops = copy(self._stops)
        twin._pieces = list(self._pieces)
        return twin

    def push(self, token: int) -> str:
        """Add a token; returns the next piece of text, maybe empty."""
        return self._note(self._stops.push(self._detokenizer.push(token)))

    def read(self, tokens: Sequence[int]) -> str:
        """All tokens that follow, where nobody reads along."""
        return self._note(self._stops.push(self._detokenizer.read(tokens)) + self._stops.finish())

    def finish(self) -> str:
        """The last piece, when no more tokens come; it may still contain a stop string, and end before it."""
        return self._note(self._stops.push(self._detokenizer.finish()) + self._stops.finish())

    def _note(self, piece: str) -> str:
        self._pieces.append(piece)
        return piece
