"""A conversation kept: its tokens, and their keys and values, in memory or in a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qkv import _ext
from qkv.errors import Error
from qkv.generation.pool import PagePool, Reservation, pages_for
from qkv.generation.prefixes import NO_PAGE
from qkv.generation.sequence import CachedSequence

if TYPE_CHECKING:
    from qkv.model import Model


class State:
    """A text that a model has read and written, to be continued without reading it again. Its keys and values stay in
    memory until it is released, dropped or left (it is a context manager).

    Attributes:
        model: whose it is.
        ids: all tokens, [len(state)].
        past: how many of them have keys and values; the last one written has none.
        nbytes: of keys and values.
    """

    def __init__(
        self,
        model: Model,
        ids: Sequence[int],
        past: int,
        planned: int,
        pages: list[int],
        reservation: Reservation,
        *,
        shared: bool = True,
    ) -> None:
        """Takes over a reference to each of `pages`, and `reservation` for them.

        `planned`: tokens that the text was to have; rotary angles may depend on it. `shared`: whether texts that begin
        alike may use what is written behind; not where this model is not known to have made the pages itself.
        """
        self.ids = list(ids)
        self.past = past
        self.planned = planned
        self.pages = pages
        self.model = model
        self._reservation = reservation
        self._shared = shared
        self._released = False

    @classmethod
    def of(cls, model: Model, sequence: CachedSequence, reservation: Reservation) -> State:
        """What a sequence has read and written. It stays usable; a part of its `reservation` goes to the state.

        Raises:
            qkv.Error: an encoder read something for it.
        """
        if sequence.source is not None:
            raise Error("a state can't be kept of a text that depends on what an encoder read")
        pages = sequence.pages[: pages_for(sequence.past)]
        own = reservation.split(len(pages) - pages.count(NO_PAGE))
        return cls(
            model, sequence.ids, sequence.past, sequence.planned, model.kv_pool.retain(pages), own,
            shared=sequence.shared,
        )  # fmt: skip

    def sequence(self, ids: Sequence[int], planned: int) -> CachedSequence:
        """A sequence that goes on with some tokens, to have `planned` in the end. It reads the text again where its
        rotary angles depend on that.

        Raises:
            qkv.Error: the state was released.
        """
        self._check_held()
        pool = self.model.kv_pool
        made = CachedSequence(pool, [*self.ids, *ids], planned)
        past = min(self.past, len(made.ids) - 1)  # one is left to be run
        absent = self.pages.count(NO_PAGE) * _ext.page_tokens
        seen = absent == 0 or (pool.reach is not None and absent <= past - pool.reach)
        if seen and pool.rotary_class(planned) == pool.rotary_class(self.planned):
            made.adopt(self.pages[: pages_for(past)], past, shared=self._shared)
        return made

    def save(self, path: str | Path) -> None:
        """Write the state to a file, for `Model.load_state`. The file appears under its name when it is whole; one that
        was there is replaced. Only its owner can read it.

        Raises:
            qkv.Error: the state was released, or the file can't be written.
        """
        from qkv.generation.state_file import write

        self._check_held()
        write(Path(path).expanduser(), self, self.model)

    @staticmethod
    def load(path: str | Path, model: Model) -> State:
        """See `Model.load_state`."""
        from qkv.generation.state_file import read

        return read(Path(path).expanduser(), model)

    @property
    def nbytes(self) -> int:
        return (len(self.pages) - self.pages.count(NO_PAGE)) * self._pool.cache.page_nbytes

    @property
    def _pool(self) -> PagePool:
        return self.model.kv_pool

    def _check_held(self) -> None:
        if self._released:
            raise Error("this state was released: its keys and values are gone")

    def release(self) -> None:
        """Give its memory back; safe to call twice. The tokens stay."""
        self._released = True
        self._pool.release(self.pages)
        self._reservation.release()

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        size = "released" if self._released else f"{self.nbytes / 1e6:.1f} MB"
        return f"<qkv.State of {len(self)} tokens, {size}>"

    def __enter__(self) -> State:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def __del__(self) -> None:
        self._pool.release(self.pages)  # the reservation forgets itself
