"""One run of the program for parts of many requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.generation.search import Feed
from qkv.generation.sequence import CachedSequence, read

if TYPE_CHECKING:
    from qkv.generation.request import Request
    from qkv.model import Model


@dataclass(slots=True)
class Share:
    """A request's part of a run.

    Attributes:
        counts: how many ids of each feed are read.
        tokens: that are read, drafts included.
        rows: of logits, that the search wants: none as long as something of its feeds is left over.
    """

    request: Request
    feeds: list[Feed]
    counts: list[int]
    tokens: int
    rows: int

    @classmethod
    def whole(cls, request: Request) -> Share:
        """All that its search wants."""
        assert request.search
        feeds = request.search.feeds()
        counts = []
        drafts = 0
        for sequence, guessed in feeds:
            counts.append(len(sequence.ids) - sequence.past)
            drafts += len(guessed)
        return cls(request, feeds, counts, sum(counts) + drafts, len(feeds) + drafts)

    @classmethod
    def next(cls, request: Request) -> Share:
        """Of one whose prompt has been read: all that its search wants. Where the feeds are the very ones that the last
        such share had, each has one token more, and the share is the same."""
        assert request.search
        if request.share is None or request.share.feeds is not request.search.feeds():
            request.share = cls.whole(request)
        return request.share

    @classmethod
    def of_prompt(cls, request: Request, most: int) -> Share:
        """At most so many tokens of what it has still to read before its first new token."""
        share = cls.whole(request)
        if share.tokens > most:
            share.counts, share.tokens, share.rows = [most], most, 0
        return share


class Outcome(NamedTuple):
    """
    Attributes:
        logits: [rows, vocab].
        maxima: of these, [rows, blocks], as `_ext.choose` takes them; None where the program does not give them.
        hidden: where a search wants them the hidden states of all tokens, [tokens, hidden_size].
    """

    logits: NDArray[np.float32]
    maxima: NDArray[np.float32] | None
    hidden: NDArray[np.float32] | None


def run(model: Model, shares: Sequence[Share], cancel: _ext.Cancel) -> Outcome:
    """What the model makes of all shares, in their order.

    Raises:
        qkv.Cancelled: another thread set `cancel`.
    """
    sequences: list[CachedSequence] = []
    drafts: list[Sequence[int]] = []
    counts: list[int] = []
    rows: list[int] = []
    outputs = model.logit_outputs
    wants_hidden = False
    for share in shares:
        counts += share.counts
        for sequence, guessed in share.feeds:
            sequences.append(sequence)
            drafts.append(guessed)
            rows.append(1 + len(guessed) if share.rows else 0)
        wants_hidden = wants_hidden or share.request.kind.wants_hidden
    if wants_hidden:
        outputs = [*outputs, "hidden_states"]
    arrays = read(model, sequences, counts, rows, drafts, outputs, cancel)
    hidden = arrays.pop() if wants_hidden else None
    return Outcome(arrays[0], arrays[1] if len(arrays) > 1 else None, hidden)
