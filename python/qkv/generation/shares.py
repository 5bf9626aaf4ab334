"""One run of the program for parts of many requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.generation.search import Feed
from qkv.source import Source

if TYPE_CHECKING:
    from qkv.generation.request import Request
    from qkv.model import Model


@dataclass(frozen=True)
class Share:
    """A request's part of a run.

    Attributes:
        counts: how many ids of each feed are read.
        complete: whether nothing is left over, so that the search can go on.
    """

    request: Request
    feeds: list[Feed]
    counts: list[int]
    complete: bool

    @classmethod
    def whole(cls, request: Request) -> Share:
        """All that its search wants."""
        assert request.search
        feeds = request.search.feeds()
        return cls(request, feeds, [len(feed.sequence.ids) - feed.sequence.past for feed in feeds], True)

    @classmethod
    def of_prompt(cls, request: Request, most: int) -> Share:
        """At most so many tokens of what it has still to read before its first new token."""
        assert request.search
        (feed,) = request.search.feeds()
        left = len(feed.sequence.ids) - feed.sequence.past
        return cls(request, [feed], [min(left, most)], left <= most)

    @property
    def tokens(self) -> int:
        return sum(self.counts) + sum(len(feed.drafts) for feed in self.feeds)

    @property
    def rows(self) -> int:
        """Of logits, that the search wants."""
        return sum(1 + len(feed.drafts) for feed in self.feeds) if self.complete else 0


def run(
    model: Model, shares: Sequence[Share], cancel: _ext.Cancel
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Logits [rows, vocab] for the rows of all shares, and where a search wants them the hidden states of all tokens
    [tokens, hidden_size], in the order of the shares.

    Raises:
        qkv.Cancelled: another thread set `cancel`.
    """
    feeds = [(f, n, share.complete) for share in shares for f, n in zip(share.feeds, share.counts, strict=True)]
    sequences = [feed.sequence for feed, _, _ in feeds]
    for feed, count, _ in feeds:
        feed.sequence.grow(feed.sequence.past + count + len(feed.drafts))
    sources = [sequence.source for sequence in sequences if sequence.source]
    outputs = ["logits"]
    if any(share.request.kind.wants_hidden for share in shares):
        outputs.append("hidden_states")
    logits, *hidden = model.run_all(
        outputs,
        [_tokens(feed, count) for feed, count, _ in feeds],
        wanted=_wanted_rows(feeds),
        past=[sequence.past for sequence in sequences],
        planned=[sequence.planned for sequence in sequences],
        cache=model.kv_pool.cache,
        pages=[sequence.pages for sequence in sequences],
        source=Source.joined(sources) if sources else None,
        cancel=cancel,
    )
    return logits, hidden[0] if hidden else None


def _tokens(feed: Feed, count: int) -> list[int]:
    sequence = feed.sequence
    return [*sequence.ids[sequence.past : sequence.past + count], *feed.drafts]


def _wanted_rows(feeds: Sequence[tuple[Feed, int, bool]]) -> NDArray[np.int64]:
    """The last id of each sequence that is read to its end, and its drafts."""
    rows: list[int] = []
    end = 0
    for feed, count, complete in feeds:
        end += count + len(feed.drafts)
        if complete:
            rows += range(end - 1 - len(feed.drafts), end)
    return np.array(rows, np.int64)
