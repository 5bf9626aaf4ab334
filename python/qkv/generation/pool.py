"""The pages of one model's keys and values: their limit, who may have how many, and what is kept of texts that were
read before."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qkv import _ext
from qkv.errors import Error
from qkv.generation.prefixes import NO_PAGE, Match, Place, PrefixIndex
from qkv.machine import available_memory

if TYPE_CHECKING:
    from qkv.graph import CacheShape

# Of the memory that is available when a pool is made, unless its limit is given.
DEFAULT_SHARE = 1 / 4
# Of free pages, that stay for the next requests when nothing runs: fresh memory takes longer to get than to fill.
KEPT_BYTES = 64 << 20
# How long others may hold all pages without a run, while somebody waits.
STALL_SECONDS = 10.0


def default_limit() -> int:
    """Bytes that a model's keys and values may take, where `kv_cache_bytes` does not say it."""
    return int(available_memory() * DEFAULT_SHARE)


def pages_for(positions: int) -> int:
    """Pages that hold so many positions of one sequence."""
    return -(-positions // _ext.page_tokens)


class PagePool:
    """Pages for everything that runs on a model, up to a limit in bytes. Safe to use from several Python threads.

    Who wants pages reserves as many as it will hold at most. All reservations together never exceed the limit, so that
    what runs always gets its pages: those that only the index of prefixes holds are given up for it, the ones used
    longest ago first. Memory is taken when a page is first used.

    Attributes:
        shape: of keys and values.
        cache: where the pages are.
        reach: see `_ext.Program.reach`.
    """

    def __init__(self, shape: CacheShape, nbytes: int, program: _ext.Program, threads: int = 1) -> None:
        """`nbytes`: the limit. `program` writes and reads the pages. `threads`: of copies.

        Raises:
            qkv.Error: the limit is less than one page.
        """
        if nbytes < shape.page_nbytes:
            raise Error(
                f"{nbytes} bytes for keys and values (kv_cache_bytes) hold no page of {_ext.page_tokens} tokens; "
                f"one takes {shape.page_nbytes} bytes"
            )
        self.shape = shape
        self.cache = shape.cache(nbytes // shape.page_nbytes)
        self.reach = program.reach
        self._program = program
        self._threads = threads
        self._prefixes = PrefixIndex(self.cache, self.reach)
        self._reserved = 0
        self._last_run = 0.0
        self._short_since: float | None = None  # when somebody found no room, and nobody has given any back since
        self._changed = threading.Condition(threading.Lock())
        self._dropped: deque[int] = deque()

    @property
    def max_pages(self) -> int:
        return self.cache.max_pages

    @property
    def nbytes(self) -> int:
        """The limit: bytes of all pages that there can be."""
        return self.cache.max_pages * self.cache.page_nbytes

    @property
    def reserved(self) -> int:
        """Pages that are reserved, in use or not."""
        return self._reserved

    @property
    def pages_in_use(self) -> int:
        """Pages that somebody holds, the index of prefixes included."""
        return self.cache.pages_in_use

    @property
    def pages_cached(self) -> int:
        """Pages that only the index of prefixes holds: they are given up when others are needed."""
        with self._locked():
            return self._prefixes.evictable

    def __repr__(self) -> str:
        in_use, cached, megabytes = self.pages_in_use, self.pages_cached, self.cache.page_nbytes / 1e6
        return (
            f"<qkv.PagePool of {self.max_pages} pages, {self.nbytes / 1e6:.1f} MB: {in_use - cached} in use "
            f"({(in_use - cached) * megabytes:.1f} MB), {cached} cached ({cached * megabytes:.1f} MB), "
            f"{self.reserved} reserved>"
        )

    def rotary_class(self, planned: int) -> int:
        """See `_ext.Program.rotary_class`."""
        return self._program.rotary_class(planned)

    def check_fits(self, pages: int) -> None:
        """Raise qkv.Error when so many pages can never be reserved together."""
        if pages > self.max_pages:
            raise Error(
                f"this needs {pages * self.cache.page_nbytes / 1e6:.1f} MB for keys and values ({pages} pages of "
                f"{_ext.page_tokens} tokens), and the model's limit is {self.nbytes / 1e6:.1f} MB; ask for less, e.g. "
                "with a smaller max_new_tokens, or open the model with a larger kv_cache_bytes"
            )

    def reserve(self, pages: int) -> Reservation | None:
        """The right to hold so many pages; None when there is no room for them at the moment.

        Raises:
            qkv.Error: there never will be.
        """
        self.check_fits(pages)
        with self._locked():
            if self._reserved + pages > self.max_pages:
                self._short_since = self._short_since or time.perf_counter()
                return None
            self._reserved += pages
            return Reservation(self, pages)

    def note_run(self) -> None:
        """A run that uses these pages has ended."""
        self._last_run = time.perf_counter()

    def wait_for_room(self, pages: int, timeout: float | None = None) -> bool:
        """Wait until so many pages can be reserved, or for `timeout` seconds; returns whether they can.

        Raises:
            qkv.Error: there is no room, and for some seconds nothing has run that could make any.
        """
        with self._locked():
            if self._changed.wait_for(lambda: self._reserved + pages <= self.max_pages, timeout):
                return True
            self._short_since = self._short_since or time.perf_counter()
            stalled_since = max(self._short_since, self._last_run)
        if time.perf_counter() - stalled_since > STALL_SECONDS:
            raise Error(
                f"no room in the KV cache for {pages} pages, and nothing is running that could make room: {self!r}. "
                "Close unfinished streams, release states, or open the model with a larger kv_cache_bytes"
            )
        return False

    def allocate(self) -> int:
        """A page with one reference; its contents are undefined.

        Raises:
            qkv.Error: every page is in use: who calls holds more than was reserved.
        """
        with self._locked():
            self._make_room()
            return self.cache.allocate()

    def retain(self, pages: Sequence[int]) -> list[int]:
        """The same pages, with one more reference to each."""
        for page in pages:
            if page != NO_PAGE:
                self.cache.retain(page)
        return list(pages)

    def release(self, pages: list[int]) -> None:
        """One reference less to each of these pages, and none in the list; the last one frees a page."""
        while pages:
            if (page := pages.pop()) != NO_PAGE:
                self.cache.release(page)

    def own(self, page: int, positions: int) -> int:
        """The page for whoever has a reference to it and wants to write behind its first `positions` positions: itself,
        or a copy if others hold it, too; the reference goes over to that."""
        if self.cache.references(page) == 1:
            return page
        with self._locked():
            self._make_room()
            own = self.cache.allocate()
        self.copy(page, own, 0, positions)
        self.cache.release(page)
        return own

    def copy(self, source: int, target: int, first: int, end: int) -> None:
        """Positions `first` ... `end` - 1 of a page, to another that is like it before them."""
        self.cache.copy(source, target, first, end - first, self._threads)

    def find(self, ids: Sequence[int], rotary_class: int) -> Match:
        """The longest beginning of a text that is cached, with a reference to each of its pages; the last one, if it is
        only partly filled, as a copy to be written to."""
        with self._locked():
            found = self._prefixes.find(ids, rotary_class)
            self.retain(found.pages)
        filled = found.positions % _ext.page_tokens
        if filled:
            try:
                found.pages[-1] = self.own(found.pages[-1], filled)
            except Error:  # no room for a page and its copy at once
                self.release(found.pages)
                return self.find(ids[: found.positions - filled], rotary_class)
        return found

    def keep(self, ids: Sequence[int], positions: int, rotary_class: int, pages: list[int], place: Place) -> None:
        """Let others find the pages of a text: see `PrefixIndex.insert`."""
        with self._locked():
            self._prefixes.insert(ids, positions, rotary_class, pages, place)

    def clear(self) -> None:
        """Forget cached prefixes, and give the memory of free pages back."""
        with self._locked():
            self._prefixes.clear()
            self.cache.trim()

    def _make_room(self) -> None:
        if self.cache.pages_in_use == self.max_pages:
            self._prefixes.evict()

    def _give_back(self, pages: int) -> None:
        """Of a reservation."""
        self._dropped.append(pages)
        with self._locked():
            pass  # the lock's owner takes them back

    def _forget(self, pages: int) -> None:
        """As `_give_back`, for the garbage collector: it may come in the middle of anything, while this thread has the
        lock. Whoever has it, or gets it next, takes them back then."""
        self._dropped.append(pages)
        if self._changed.acquire(blocking=False):
            try:
                self._take_back()
            finally:
                self._changed.release()

    def _take_back(self) -> None:
        while self._dropped:
            self._reserved -= self._dropped.popleft()
            self._short_since = None
            if self._reserved == 0:
                self.cache.trim(KEPT_BYTES)
            self._changed.notify_all()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._changed:
            self._take_back()
            try:
                yield
            finally:
                self._take_back()


class Reservation:
    """The right to hold some pages of a pool at once, until it is released or forgotten. Made by `PagePool.reserve`.

    Attributes:
        pages: how many.
    """

    def __init__(self, pool: PagePool, pages: int) -> None:
        self._pool = pool
        self.pages = pages

    def split(self, pages: int) -> Reservation:
        """A part of it, to be released on its own."""
        if not 0 <= pages <= self.pages:
            raise Error(f"a reservation of {self.pages} pages has no {pages} to give")
        self.pages -= pages
        return Reservation(self._pool, pages)

    def join(self, other: Reservation) -> None:
        """Take over what another one holds of the same pool."""
        self.pages, other.pages = self.pages + other.pages, 0

    def release(self) -> None:
        """Give the right back; safe to call twice. The pages themselves are to be released before."""
        pages, self.pages = self.pages, 0
        if pages:
            self._pool._give_back(pages)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def __del__(self) -> None:
        if self.pages:
            self._pool._forget(self.pages)

    def __repr__(self) -> str:
        return f"<qkv.Reservation of {self.pages} pages>"
