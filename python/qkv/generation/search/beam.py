"""Beam search, also with beams that are drawn at random, and with groups of beams that are kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.errors import Error
from qkv.generation.result import TokenLogprobs
from qkv.generation.rules import LogitRules
from qkv.generation.search.base import Feed, Found, JointSearch, Task, Together
from qkv.generation.search.beam_group import BeamGroup, Continuation, Ended, Note
from qkv.generation.search.draw import draw_continuations

if TYPE_CHECKING:
    from qkv.generation.options import Options
    from qkv.generation.sequence import CachedSequence


class BeamsTogether(Together):
    def advance(
        self,
        logits: NDArray[np.float32],
        maxima: NDArray[np.float32] | None,
        hidden: Sequence[NDArray[np.float32] | None],
    ) -> list[Exception | None]:
        searches = self.searches
        threads = searches[0]._task.threads
        scored = any(search._reads_scores for search in searches)
        if scored:
            _ext.log_softmax(logits, threads, maxima)
        turns: list[_Turn] = []
        place = 0
        for search in searches:
            turns += search._turns(place)
            place += len(search._feeds)
        own = logits.copy() if any(s._task.options.logprobs is not None for s in searches) else logits
        if any(s._task.rules.processors or len(s._groups) > 1 for s in searches):
            maxima = None  # these change the scores unseen
        errors: dict[BeamSearch, Exception] = {}
        for number in range(max(turn.number for turn in turns) + 1):
            now = [turn for turn in turns if turn.number == number and turn.search not in errors]
            if now:
                scores = logits if len(now) == len(turns) else np.concatenate([logits[turn.rows] for turn in now])
                errors |= _take_turns(now, _Scores(scores, maxima, scored), own, threads)
        for search in searches:
            search._steps += 1
            search._feeds = [Feed(beam.sequence) for group in search._groups for beam in group.running]
        return [errors.get(search) for search in searches]


class BeamSearch(JointSearch):
    """The likeliest texts, as Hugging Face's beam search finds them.

    Rules work on the log probabilities of the next token. With `num_beam_groups` the groups take their next tokens one
    after the other, and each pays `diversity_penalty` for a token as often as groups before it have taken it
    (Vijayakumar et al. 2018). Where fewer tokens may follow than there are beams, there are fewer beams, and maybe
    fewer texts than wanted; Hugging Face fills up with copies whose log probabilities sum up to -1e9.
    """

    together = BeamsTogether

    def __init__(self, sequence: CachedSequence, task: Task) -> None:
        self._task = task
        size = task.options.num_beams // task.options.num_beam_groups
        self._groups = [BeamGroup(sequence, task, size)]  # the others start when the prompt has been read
        self._steps = 0
        self._size = size
        self._feeds = [Feed(sequence)]
        options = task.options
        # Whether anything but the best continuations is taken from the scores of all tokens, or changes them.
        self._reads_scores = bool(
            task.rules.active or options.num_beam_groups > 1 or options.sampling or options.logprobs is not None
        )

    @staticmethod
    def lanes(options: Options) -> int:
        return options.num_beams

    def feeds(self) -> list[Feed]:
        return self._feeds

    @property
    def finished(self) -> bool:
        return not any(group.running for group in self._groups)

    def found(self) -> list[Found]:
        ended = [e for group in self._groups for e in (group.cut_short() if group.running else group.ended)]
        best = sorted(ended, key=lambda e: -e.score)
        return [self._as_found(e) for e in best[: self._task.options.num_return_sequences]]

    def release(self) -> None:
        for group in self._groups:
            group.release()

    def _turns(self, place: int) -> list[_Turn]:
        """What each group that is not done has to do; the search's first row of logits is number `place`."""
        if self._steps == 0:
            first = self._groups[0].running[0].sequence
            more = self._task.options.num_beam_groups - 1
            self._groups += [BeamGroup(first.fork(), self._task, self._size) for _ in range(more)]
        turns: list[_Turn] = []
        taken: list[int] = []
        for group in self._groups:
            if not group.running:
                continue
            end = place + len(group.running)
            turns.append(_Turn(self, group, len(turns), slice(place, end), taken))
            place = place if self._steps == 0 else end
        return turns

    def _take(
        self, turn: _Turn, scores: NDArray[np.float32], best: list[Continuation], own: NDArray[np.float32]
    ) -> None:
        """
        Args:
            scores: of this group's beams, as the rules left them, [beams, vocab].
            best: continuations, the first ones first.
            own: log probabilities of the model itself, for all rows.
        """
        options, group = self._task.options, turn.group
        if not best:
            reason = "the logits are not finite; expected numbers"
            if self._task.rules.active and np.all(scores < np.inf):
                reason = "the rules leave no token that could come next"
            raise Error(f"generate: step {group.length + 1}: {reason}")
        if options.sampling:
            first = self._steps * group.wanted
            draws = [_ext.uniform(options.seed, self._task.stream, first + i) for i in range(group.wanted)]
            keep = max(2, 1 + len(options.eos_token_id))
            best = draw_continuations(scores, [beam.score for beam in group.running], options.sampling, keep, draws)
        note = None if options.logprobs is None else _notes(own[turn.rows], options.logprobs)
        group.advance(best, note)
        if options.num_beam_groups > 1:
            turn.taken.extend(group.taken)

    def _as_found(self, ended: Ended) -> Found:
        text = self._task.text()
        reason = ended.reason
        if text is not None:
            text.read([token for token in ended.ids if token not in self._task.options.eos_token_id])
            reason = "stop" if text.stopped else reason
        logprobs = None if self._task.options.logprobs is None else list(ended.logprobs)
        return Found(ended.ids, text.text if text else "", reason, ended.score, logprobs)


@dataclass(slots=True)
class _Turn:
    """What one group does in a step.

    Attributes:
        number: turns of equal number, each of another search, are taken together.
        rows: of the logits that are behind its beams.
        taken: the tokens that groups of this search before it took in this step.
    """

    search: BeamSearch
    group: BeamGroup
    number: int
    rows: slice
    taken: list[int]


class _Scores(NamedTuple):
    """
    Attributes:
        values: of all tokens, for the rows of some turns: log probabilities, or logits that make them.
        maxima: of these, if they are known.
        scored: log probabilities.
    """

    values: NDArray[np.float32]
    maxima: NDArray[np.float32] | None
    scored: bool


def _take_turns(
    turns: Sequence[_Turn], scores: _Scores, own: NDArray[np.float32], threads: int
) -> dict[BeamSearch, Exception]:
    """Returns what the searches raised."""
    values = scores.values
    parts: list[slice] = []  # the rows of each turn
    groups: list[tuple[int, int]] = []
    rules: list[LogitRules] = []
    ids: list[list[int]] = []
    running: list[float] = []
    for turn in turns:
        task, beams = turn.search._task, turn.group.running
        parts.append(slice(len(ids), len(ids) + len(beams)))
        groups.append((len(beams), turn.group.wanted))
        for token in turn.taken:
            values[parts[-1], token] -= task.options.diversity_penalty
        for beam in beams:
            rules.append(task.rules)
            ids.append(beam.sequence.ids)
            running.append(beam.score)
    refused = LogitRules.apply_all(rules, ids, values, threads, scores.maxima)
    ranks = _ext.best_continuations(values, running, groups, threads, scores.maxima, not scores.scored)
    errors: dict[BeamSearch, Exception] = {}
    for turn, part, best in zip(turns, parts, ranks, strict=True):
        error = next((e for e in refused[part] if e is not None), None)
        try:
            if error is not None:
                raise error
            turn.search._take(turn, values[part], best, own)
        except Exception as raised:  # of this request alone: a user's logits processor may raise anything
            errors[turn.search] = raised
    return errors


def _notes(own: NDArray[np.float32], most: int) -> Note:
    """`own`: log probabilities of the model itself, [beams, vocab]."""
    tops = _ext.best_continuations(own, [0.0] * len(own), [(1, most)] * len(own)) if most else [[]] * len(own)

    def note(beam: int, token: int) -> TokenLogprobs:
        return TokenLogprobs(token, float(own[beam, token]), {t: score for score, _, t in tops[beam]})

    return note
