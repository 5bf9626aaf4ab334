"""The pool of pages: each way to share, copy, find and give up pages, and who may have how many."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tests.generation.marked_pages import SHAPE, Program, check_keys, make_pool, run

import qkv
from qkv.generation.pool import PagePool
from qkv.generation.sequence import CachedSequence


@pytest.fixture
def pool() -> PagePool:
    return make_pool(8)


def start(pool: PagePool, ids: list[int], *, match: bool = True, planned: int = 200) -> CachedSequence:
    """A sequence that has read all of its tokens."""
    sequence = CachedSequence(pool, ids, planned)
    if match:
        sequence.match()
    run(pool, sequence, len(ids) - sequence.past)
    return sequence


def matched(pool: PagePool, ids: list[int], planned: int = 200) -> int:
    """How many of the tokens are found."""
    sequence = CachedSequence(pool, ids, planned)
    sequence.match()
    check_keys(pool, sequence)
    past = sequence.past
    sequence.release()
    return past


def tokens(count: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 100, count).tolist()


def test_a_text_is_found_as_far_as_it_is_the_same(pool: PagePool) -> None:
    ids = tokens(150)
    start(pool, ids).release()
    assert matched(pool, ids) == 149  # one is left to be run
    assert matched(pool, [*ids, 1, 2, 3]) == 150
    assert matched(pool, [*ids[:100], 101, *ids[101:]]) == 100
    assert matched(pool, [*ids[:10], 101, *ids[11:]]) == 10
    assert matched(pool, ids[:64]) == 63
    assert matched(pool, [101, *ids]) == 0
    assert matched(pool, ids[:1]) == 0


def test_of_two_texts_the_one_that_is_longer_the_same_is_found(pool: PagePool) -> None:
    ids = tokens(60)
    for length in (50, 20, 40, 30):
        start(pool, [*ids[:length], 101 + length], match=False).release()
        assert matched(pool, [*ids[:length], 100]) == length
    assert matched(pool, ids) == 50


def test_whole_pages_are_found_while_the_text_is_still_read(pool: PagePool) -> None:
    ids = tokens(150)
    running = start(pool, ids)
    assert matched(pool, ids) == 128
    running.release()


def test_positions_on_trial_or_cut_short_are_never_found(pool: PagePool) -> None:
    ids = tokens(130)
    sequence = CachedSequence(pool, ids, 200)
    run(pool, sequence, 70, trial=55)
    sequence.grow(200)  # and the run fails
    sequence.release()
    assert matched(pool, ids) == 70


def test_other_angles_are_another_text(pool: PagePool) -> None:
    ids = tokens(70)
    start(pool, ids, planned=300).release()
    assert matched(pool, ids) == 0
    assert matched(pool, ids, planned=301) == 0
    assert matched(pool, ids, planned=300) == 69


def test_what_depends_on_a_source_is_not_found(pool: PagePool) -> None:
    ids = tokens(70)
    sequence = CachedSequence(pool, ids, 100, source=object())  # type: ignore[arg-type]
    sequence.match()
    run(pool, sequence, 70)
    fork = sequence.fork()
    sequence.release()
    assert fork.source is sequence.source
    fork.release()
    assert pool.pages_in_use == 0


def test_two_that_read_the_same_at_once_keep_one_copy(pool: PagePool) -> None:
    ids = tokens(130)
    first, second = (CachedSequence(pool, ids, 200) for _ in range(2))
    for sequence in (first, second):
        sequence.match()
        sequence.grow(130)
    assert not set(first.pages) & set(second.pages)
    run(pool, first, 130)
    run(pool, second, 130)
    assert first.pages[:2] == second.pages[:2]
    assert pool.pages_in_use == 4
    first.release()
    check_keys(pool, second)
    second.release()
    assert pool.pages_in_use == pool.pages_cached == 3


def test_a_longer_text_takes_the_place_of_its_beginning(pool: PagePool) -> None:
    ids = tokens(100)
    for length in (70, 80, 100, 90, 70):
        start(pool, ids[:length], match=False).release()
        assert pool.pages_in_use == 2
    assert matched(pool, ids) == 99


def test_forks_share_until_they_write(pool: PagePool) -> None:
    ids = tokens(100)
    one = start(pool, ids)
    others = [one.fork() for _ in range(3)]
    assert pool.pages_in_use == 2
    for i, other in enumerate([one, *others]):
        other.ids.append(200 + i)
        run(pool, other, 1)
    assert pool.pages_in_use == 5
    for other in [one, *others]:
        check_keys(pool, other)
        other.release()
    assert pool.pages_in_use == 2  # only the first one's ending can be found
    assert matched(pool, [*ids, 200, 1]) == 101
    assert matched(pool, [*ids, 202, 1]) == 100


@pytest.mark.parametrize("begin", [70, 64, 10])
def test_a_fork_takes_the_page_of_one_that_began_alike(
    pool: PagePool, monkeypatch: pytest.MonkeyPatch, begin: int
) -> None:
    one = start(pool, tokens(begin))
    rivals = [one.fork() for _ in range(2)]
    for i, rival in enumerate(rivals):
        rival.ids += [200, 200 + i, 201 + i]
        run(pool, rival, 3)
    copied: list[tuple[int, int]] = []
    copy = pool.copy
    monkeypatch.setattr(pool, "copy", lambda a, b, first, end: (copied.append((first, end)), copy(a, b, first, end)))
    winner, loser = rivals
    in_use = pool.pages_in_use
    twin = winner.fork(loser)
    assert copied == [((begin + 1) % 64, (begin + 3) % 64)]
    assert loser.pages == []
    assert pool.pages_in_use == in_use
    for i, sequence in enumerate([winner, twin]):
        sequence.ids.append(300 + i)
        run(pool, sequence, 1)
        check_keys(pool, sequence)
    assert len(copied) == 1
    assert pool.pages_in_use == in_use


def test_whole_pages_of_forks_are_found(pool: PagePool) -> None:
    one = start(pool, tokens(100))
    other = one.fork()
    one.release()
    other.ids += tokens(80, 1)
    run(pool, other, 80)
    other.release()
    assert matched(pool, [*tokens(100), *tokens(80, 1)]) == 128


def test_the_prefix_used_longest_ago_is_given_up(pool: PagePool) -> None:
    texts = [tokens(120, seed) for seed in range(4)]
    for ids in texts:
        start(pool, ids).release()
    assert pool.pages_cached == 8
    matched(pool, texts[0])
    start(pool, tokens(120, 9)).release()
    assert [matched(pool, ids) > 0 for ids in texts] == [True, False, True, True]


def test_what_runs_gets_its_pages_from_the_cache_even_to_copy(pool: PagePool) -> None:
    start(pool, tokens(500)).release()
    assert pool.pages_cached == 8
    one = start(pool, tokens(120, 1))
    other = one.fork()
    while pool.pages_in_use < 8:
        start(pool, tokens(500, 2)).release()
    other.ids.append(1)
    run(pool, other, 1)
    for sequence in (one, other):
        check_keys(pool, sequence)
        sequence.release()


def test_no_room_for_a_page_and_its_copy() -> None:
    pool = make_pool(2)
    ids = tokens(100)
    start(pool, ids).release()
    assert pool.pages_cached == 2
    assert matched(pool, [*ids[:90], 101, 102]) == 64
    again = start(pool, [*ids[:90], 101, 102])
    check_keys(pool, again)
    again.release()


def test_more_than_there_can_be_is_refused(pool: PagePool) -> None:
    with pytest.raises(qkv.Error, match=r"0\.0 MB for keys and values \(9 pages .*max_new_tokens.*kv_cache_bytes"):
        pool.reserve(9)
    held = pool.reserve(8)
    assert held is not None
    assert pool.reserve(1) is None
    sequence = start(pool, tokens(500))
    with pytest.raises(qkv.Error, match="all 8 pages are in use"):
        sequence.grow(513)
    sequence.release()
    with pytest.raises(qkv.Error, match=r"kv_cache_bytes.* hold no page"):
        PagePool(SHAPE, SHAPE.page_nbytes - 1, Program())  # type: ignore[arg-type]


def test_reservations(pool: PagePool) -> None:
    held = pool.reserve(6)
    assert held is not None
    part = held.split(2)
    assert (held.pages, part.pages, pool.reserved) == (4, 2, 6)
    with pytest.raises(qkv.Error, match="no 5 to give"):
        held.split(5)
    for _ in range(2):
        held.release()
    assert pool.reserved == 2
    with part:
        assert "2 reserved" in repr(pool)
    assert pool.reserved == 0
    pool.reserve(3)  # forgotten at once
    assert pool.reserved == 0


def test_waiting_for_room(pool: PagePool) -> None:
    held = pool.reserve(8)
    assert held is not None
    assert not pool.wait_for_room(1, timeout=0.01)
    threading.Timer(0.05, held.release).start()
    assert pool.wait_for_room(8, timeout=10)


def test_a_forgotten_reservation_is_given_back_in_the_middle_of_anything(pool: PagePool) -> None:
    held = [pool.reserve(8)]
    with pool._locked():
        held.clear()
        assert pool.reserved == 8  # whoever has the lock does it when done
    assert pool.reserved == 0
    assert pool.wait_for_room(8, timeout=0)


def test_sizes_are_shown(pool: PagePool) -> None:
    running = start(pool, tokens(70, 1))
    start(pool, tokens(70)).release()
    megabytes = SHAPE.page_nbytes / 1e6
    assert repr(pool) == (
        f"<qkv.PagePool of 8 pages, {8 * megabytes:.1f} MB: 2 in use ({2 * megabytes:.1f} MB), "
        f"2 cached ({2 * megabytes:.1f} MB), 0 reserved>"
    )
    running.release()


def test_many_threads() -> None:
    pool = make_pool(64)
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            rng = np.random.default_rng(seed)
            for _ in range(15):
                ids = tokens(100, int(rng.integers(3)))[: int(rng.integers(60, 100))]
                assert pool.wait_for_room(3, 20)
                if reservation := pool.reserve(3):
                    sequence = start(pool, ids)
                    check_keys(pool, sequence)
                    sequence.release()
                    reservation.release()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert pool.pages_in_use == pool.pages_cached
    pool.clear()
    assert pool.pages_in_use == 0
