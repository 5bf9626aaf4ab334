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
    from qkv.generation.sequence import CachedSequence
    from qkv.model import Model


@dataclass(slots=True)
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
    ids: list[list[int]] = []
    sequences: list[CachedSequence] = []
    wanted: list[int] = []  # rows: the last id of each sequence that is read to its end, and its drafts
    end = 0
    for share in shares:
        for feed, count in zip(share.feeds, share.counts, strict=True):
            sequence = feed.sequence
            tokens = [*sequence.ids[sequence.past : sequence.past + count], *feed.drafts]
            sequence.grow(sequence.past + len(tokens))
            end += len(tokens)
            if share.complete:
                wanted += range(end - 1 - len(feed.drafts), end)
            ids.append(tokens)
            sequences.append(sequence)
    sources = [sequence.source for sequence in sequences if sequence.source]
    outputs = ["logits"]
    if any(share.request.kind.wants_hidden for share in shares):
        outputs.append("hidden_states")
    logits, *hidden = model.run_all(
        outputs,
        ids,
        wanted=wanted,
        past=[sequence.past for sequence in sequences],
        planned=[sequence.planned for sequence in sequences],
        cache=model.kv_pool.cache,
        pages=[sequence.pages for sequence in sequences],
        source=Source.joined(sources) if sources else None,
        cancel=cancel,
    )
    return logits, hidden[0] if hidden else None
