"""One run of the program for parts of many requests: what it reads, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.generation.search import Feed, Together
from qkv.generation.sequence import CachedSequence, read

if TYPE_CHECKING:
    from qkv.generation.request import Request
    from qkv.model import Model


@dataclass(slots=True, eq=False)
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


class Group(NamedTuple):
    """The requests of a plan whose searches are of one kind and get logits, which lie together in these rows."""

    requests: list[Request]
    together: Together
    rows: slice
    wants_hidden: bool

    @classmethod
    def of(cls, shares: Sequence[Share], first_row: int) -> Group:
        requests = [share.request for share in shares]
        kind = requests[0].kind
        rows = slice(first_row, first_row + sum(share.rows for share in shares))
        return cls(requests, kind.together([request.search for request in requests]), rows, kind.wants_hidden)


class Plan:
    """A run. The one of the next tokens is the same again, as long as nobody joins or leaves.

    Attributes:
        shares: in the order in which they are read, those of one kind of search together.
        groups: of those that get logits.
    """

    def __init__(self, shares: list[Share], outputs: Sequence[str]) -> None:
        """`outputs`: of the program, for logits."""
        self.shares = shares
        self.groups: list[Group] = []
        self._sequences: list[CachedSequence] = []
        self._drafts: list[Sequence[int]] = []
        self._counts: list[int] = []
        self._rows: list[int] = []
        self._wants_hidden = False
        for share in shares:
            self._counts += share.counts
            for sequence, guessed in share.feeds:
                self._sequences.append(sequence)
                self._drafts.append(guessed)
                self._rows.append(1 + len(guessed) if share.rows else 0)
            self._wants_hidden = self._wants_hidden or share.request.kind.wants_hidden
        row = 0
        for _, alike in groupby((share for share in shares if share.rows), key=lambda share: share.request.kind):
            self.groups.append(Group.of(list(alike), row))
            row = self.groups[-1].rows.stop
        self._outputs = [*outputs, "hidden_states"] if self._wants_hidden else outputs

    def run(self, model: Model, cancel: _ext.Cancel) -> Outcome:
        """What the model makes of all shares.

        Raises:
            qkv.Cancelled: another thread set `cancel`.
        """
        arrays = read(model, self._sequences, self._counts, self._rows, self._drafts, self._outputs, cancel)
        hidden = arrays.pop() if self._wants_hidden else None
        return Outcome(arrays[0], arrays[1] if len(arrays) > 1 else None, hidden)


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

    def part(self, rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Some rows of logits, and their maxima."""
        if rows.stop - rows.start == len(self.logits):
            return self.logits, self.maxima
        return self.logits[rows], None if self.maxima is None else self.maxima[rows]
