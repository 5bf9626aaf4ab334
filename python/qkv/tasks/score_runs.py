"""Runs that score texts: their tokens in order, or masked one by one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.errors import Error
from qkv.tasks.score_texts import Item, mask_token, masked_item

if TYPE_CHECKING:
    from qkv.model import Model

Progress = Callable[[int, int], object]

# Tokens of one run, and so rows of logits at once at most; of an encoder, whose runs have few such rows; and positions
# that are cached at once, unless one text has more. All bound memory; results do not depend on them.
_TOKENS, _MASKED_TOKENS, _POSITIONS = 512, 4096, 16384


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
    for group in _groups([item.positions for item in items], _POSITIONS):
        _run_group(model, [(i, items[i]) for i in group], tally)
    return tally.scores([item.ids[item.start :] for item in items])


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


def _run_group(model: Model, group: Sequence[tuple[int, Item]], tally: _Tally) -> None:
    """Texts laid end to end, cut into runs; a text that is cut goes on with what is cached."""
    items = [item for _, item in group]
    counts = [-(-len(item.read) // _ext.page_tokens) for item in items]
    cache = model.new_cache(sum(counts) * _ext.page_tokens)
    pages = [[cache.allocate() for _ in range(count)] for count in counts]
    sources = [item.source for item in items if item.source is not None]
    source = model.read_source(sources) if sources else None
    for run in _runs([len(item.read) for item in items]):
        rows: list[int] = []
        tokens = 0
        for k, begin, end in run:
            rows += range(tokens + max(0, items[k].start - 1 - begin), tokens + end - begin)
            tokens += end - begin
        logits = model.run(
            "logits",
            [items[k].read[begin:end] for k, begin, end in run],
            past=[begin for _, begin, _ in run],
            planned=[len(items[k].read) for k, _, _ in run],
            cache=cache,
            pages=[pages[k] for k, _, _ in run],
            source=source.part([k for k, _, _ in run]) if source else None,
            wanted=np.array(rows, np.int64),
        )
        for k, begin, end in run:
            text, item = group[k]
            own = item.ids[max(begin + 1, item.start) : end + 1]
            tally.add(item.name, text, max(begin + 1 - item.start, 0), own, logits[: len(own)])
            logits = logits[len(own) :]
        tally.report()


def _runs(lengths: Sequence[int]) -> Iterator[list[tuple[int, int, int]]]:
    """All tokens of some texts, in runs of at most _TOKENS: (text, first token, end)."""
    run, room = [], _TOKENS
    for text, length in enumerate(lengths):
        begin = 0
        while begin < length:
            end = min(length, begin + room)
            run.append((text, begin, end))
            room -= end - begin
            begin = end
            if room == 0:
                yield run
                run, room = [], _TOKENS
    if run:
        yield run


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
