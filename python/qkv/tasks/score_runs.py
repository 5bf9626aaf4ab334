"""Runs that score texts: their tokens in order, or masked one by one."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.batches import PREFILL_TOKENS
from qkv.errors import Error
from qkv.generation.pool import pages_for
from qkv.generation.sequence import CachedSequence, read
from qkv.source import SOURCE_TOKENS, Source
from qkv.tasks.score_texts import Item, mask_token, masked_item

if TYPE_CHECKING:
    from qkv.generation.pool import PagePool, Reservation
    from qkv.model import Model

Progress = Callable[[int, int], object]

# Tokens of one run of an encoder, which wants few rows of logits. It bounds memory; results do not depend on it.
_MASKED_TOKENS = 4096


@dataclass(frozen=True)
class Score:
    """What a model makes of a text.

    Attributes:
        token_ids: the tokens that are scored: of a text all but those that have nothing before them, of a pair those of
            its second part, with a masked language model all but special ones.
        logprobs: natural logarithm of each token's probability.
        is_greedy: whether each of them is the likeliest in its place.
    """

    token_ids: list[int]
    logprobs: list[float]
    is_greedy: bool

    @property
    def total(self) -> float:
        """The sum of the log probabilities."""
        return math.fsum(self.logprobs)

    @property
    def perplexity(self) -> float:
        """exp of minus the mean log probability."""
        return perplexity_of(self.total, len(self.logprobs))


def perplexity_of(total: float, tokens: int) -> float:
    try:
        return math.exp(-total / tokens)
    except OverflowError:
        return math.inf


class _Tally:
    """Scores of some texts, as their logits come in."""

    def __init__(self, counts: Sequence[int], threads: int, progress: Progress | None) -> None:
        self._logprobs = [np.empty(count) for count in counts]
        self._likeliest = [np.empty(count, bool) for count in counts]
        self._threads = threads
        self._progress = progress
        self._done = 0

    def add(self, name: str, text: int, at: int, tokens: NDArray[np.int32], logits: NDArray[np.float32]) -> None:
        """Tokens at, at + 1, ... of a text, with a row of logits for each."""
        logprobs, likeliest, _ = _ext.logprobs(logits, tokens.astype(np.int64), 1, self._threads)
        if np.isnan(logprobs).any():
            raise Error(f"{name}: the model's logits of token {at + int(np.isnan(logprobs).argmax())} are not finite")
        self._logprobs[text][at : at + len(tokens)] = logprobs
        self._likeliest[text][at : at + len(tokens)] = likeliest[:, 0] == tokens
        self._done += len(tokens)

    def report(self) -> None:
        if self._progress:
            self._progress(self._done, sum(map(len, self._logprobs)))

    def scores(self, tokens: Sequence[NDArray[np.int32]]) -> list[Score]:
        return [
            Score(ids.tolist(), logprobs.tolist(), bool(likeliest.all()))
            for ids, logprobs, likeliest in zip(tokens, self._logprobs, self._likeliest, strict=True)
        ]


def score_in_order(model: Model, items: Sequence[Item], progress: Progress | None) -> list[Score]:
    tally = _Tally([len(item.ids) - item.start for item in items], model.num_threads, progress)
    groups: Iterator[list[int]] = iter([list(range(len(items)))])
    if model.encoder:
        groups = _groups([len(item.source) for item in items if item.source is not None], SOURCE_TOKENS)
    for group in groups:
        source = None
        if model.encoder:
            source = model.read_source([s for i in group if (s := items[i].source) is not None])
        _score_group(
            model, deque((i, items[i], source.part([k]) if source else None) for k, i in enumerate(group)), tally
        )
    return tally.scores([item.ids[item.start :] for item in items])


class _Reading:
    """A text on its way through the model. A beginning that was read before, such as the context of several texts, is
    found in the cache."""

    def __init__(
        self, pool: PagePool, number: int, item: Item, source: Source | None, reservation: Reservation
    ) -> None:
        self.number = number
        self.item = item
        self._source = source
        self._reservation = reservation
        ids = item.ids[:-1].tolist()  # nothing follows the last token
        self.sequence = CachedSequence(pool, ids, len(ids), source)
        self.sequence.match(item.start - 1)  # the row of logits for the first token that is scored is wanted

    @property
    def left(self) -> int:
        """Tokens that are still to be read."""
        return len(self.sequence.ids) - self.sequence.past

    def release(self) -> None:
        self.sequence.release()
        self._reservation.release()
        if self._source:
            self._source.release()


def _score_group(model: Model, waiting: deque[tuple[int, Item, Source | None]], tally: _Tally) -> None:
    """Texts laid end to end, cut into runs; a text that is cut goes on with what is cached."""
    pool = model.kv_pool
    active: list[_Reading] = []
    try:
        while waiting or active:
            while waiting and sum(reading.left for reading in active) < PREFILL_TOKENS:
                number, item, source = waiting[0]
                pages = pages_for(len(item.ids) - 1)
                if reservation := pool.reserve(pages):
                    active.append(_Reading(pool, number, item, source, reservation))
                    waiting.popleft()
                elif active:
                    break
                else:
                    pool.wait_for_room(pages, 1.0)
            _run(model, active, tally)
            read = [reading for reading in active if reading.left == 0]
            active = [reading for reading in active if reading.left]
            for reading in read:
                reading.release()
    finally:
        for reading in active:
            reading.release()


def _groups(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Neighbours with a sum of at most `most`, or single ones."""
    group: list[int] = []
    total = 0
    for i, size in enumerate(sizes):
        if group and total + size > most:
            yield group
            group, total = [], 0
        group.append(i)
        total += size
    if group:
        yield group


def _run(model: Model, readings: Sequence[_Reading], tally: _Tally) -> None:
    """The next tokens of some texts, at most PREFILL_TOKENS."""
    room = PREFILL_TOKENS
    counts: list[int] = []  # tokens of each text
    rows: list[int] = []  # of each text, of how many of these the logits are wanted
    for reading in readings:
        count = min(reading.left, room)
        room -= count
        counts.append(count)
        rows.append(count - min(count, max(0, reading.item.start - 1 - reading.sequence.past)))
    (logits,) = read(model, [reading.sequence for reading in readings], counts, rows)
    model.kv_pool.note_run()
    row = 0
    for reading, count in zip(readings, rows, strict=True):
        item = reading.item
        first = reading.sequence.past - count + 1  # a row is of the token behind it
        if count:
            own = item.ids[first : first + count]
            tally.add(item.name, reading.number, first - item.start, own, logits[row : row + count])
        row += count
    tally.report()


def score_masked(model: Model, texts: Sequence[Any], progress: Progress | None) -> list[Score]:
    """Each token is masked in a copy of its text (Salazar et al. 2020)."""
    mask = mask_token(model)
    names = [f"score: texts[{i}]" for i in range(len(texts))]
    sequences, places = [], []
    for text, name in zip(texts, names, strict=True):
        ids, own = masked_item(model, text, name)
        sequences.append(ids)
        places.append(own)
    copies = [(i, k) for i, own in enumerate(places) for k in range(len(own))]
    tally = _Tally([len(own) for own in places], model.num_threads, progress)
    for group in _groups([len(sequences[i]) for i, _ in copies], _MASKED_TOKENS):
        batch, rows, begin = [], [], 0
        for i, k in (copies[j] for j in group):
            ids = sequences[i].copy()
            ids[places[i][k]] = mask
            batch.append(ids)
            rows.append(begin + places[i][k])
            begin += len(ids)
        logits = model.run("logits", batch, wanted=np.array(rows, np.int64))
        for (i, k), row in zip((copies[j] for j in group), logits, strict=True):
            tally.add(names[i], i, k, sequences[i][places[i][k : k + 1]], row[None])
        tally.report()
    return tally.scores([ids[own] for ids, own in zip(sequences, places, strict=True)])
