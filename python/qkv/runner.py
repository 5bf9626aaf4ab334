"""Runs of a model's programs, on batches of token ids."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.batches import Wanted, make_batch
from qkv.errors import Error
from qkv.graph import Lowered
from qkv.profile import print_profile
from qkv.source import Source, split_in_batches

if TYPE_CHECKING:
    from qkv.generation.pool import PagePool, Reservation
    from qkv.graph import CacheShape


class Runner:
    """A model's programs, and what they need to run. Safe to use from several Python threads.

    Attributes:
        program: the steps of the model, or of its decoder; `print(model.program)` shows them.
        encoder: the steps of an encoder that `program`, a decoder, reads from; None for other models.
        kv_dtype: of keys and values, cached or not: "float32", "bfloat16" or "int8".
        logit_outputs: "logits", and where the last step makes them "logit_maxima", which help to choose a token.
        num_threads: threads of a run.
        context_length: most tokens of a sequence; None where positions have no end.
        kv_cache_bytes: what keys and values of all texts may take; None until the first one needs some, where a quarter
            of the memory that is available then is the limit.
    """

    def __init__(
        self,
        name: str,
        lowered: Lowered,
        num_threads: int,
        context_length: int | None,
        kv_cache_bytes: int | None = None,
    ) -> None:
        self.program = lowered.program
        self.encoder = lowered.encoder
        self.kv_dtype = lowered.kv_dtype
        self.num_threads = num_threads
        self.context_length = context_length
        self._cache_shape = lowered.cache
        self._source_shape = lowered.source_cache
        self.kv_cache_bytes = kv_cache_bytes
        self.logit_outputs: list[str] = [name for name in ("logits", "logit_maxima") if name in self.program.outputs]
        self._kv_pool: PagePool | None = None
        self._source_pool: PagePool | None = None
        self._pool_lock = threading.Lock()
        for title, program in ((name, self.program), (f"{name} encoder", self.encoder)):
            if program and program.profiling:  # printed when the model is dropped or the process ends
                weakref.finalize(self, print_profile, title, program)

    @property
    def is_causal(self) -> bool:
        """Whether a token looks at those before it only, so that the model can write texts from left to right."""
        return self._cache_shape is not None

    def new_cache(self, positions: int) -> _ext.KVCache:
        """An empty KV cache with room for `positions` positions, spread over any number of sequences by pages.

        Raises:
            qkv.Error: the model looks both ways, so past tokens can't be cached.
        """
        shape = self._cache_shape
        if shape is None:
            raise Error("this model has no causal attention: there is nothing to cache or to generate")
        return shape.cache(-(-positions // _ext.page_tokens))

    @property
    def kv_pool(self) -> PagePool:
        """The pages of all texts that are generated; made when it is first asked for.

        Raises:
            qkv.Error: the model looks both ways, so past tokens can't be cached; or kv_cache_bytes hold no page.
        """
        if self._kv_pool is None:  # asked for in every run: without the lock, once it is there
            with self._pool_lock:
                if self._cache_shape is None:
                    raise Error("this model has no causal attention: there is nothing to cache or to generate")
                self._kv_pool = self._kv_pool or self._new_pool(self._cache_shape, self.program)
        return self._kv_pool

    @property
    def source_pool(self) -> PagePool:
        """The pages of what an encoder reads for a decoder; made when it is first asked for.

        Raises:
            qkv.Error: the model has no encoder beside its decoder, or kv_cache_bytes hold no page.
        """
        with self._pool_lock:
            if self._source_pool is None:
                if self._source_shape is None or self.encoder is None:
                    raise Error("this model has no encoder that a decoder reads from")
                self._source_pool = self._new_pool(self._source_shape, self.encoder)
            return self._source_pool

    def _new_pool(self, shape: CacheShape, program: _ext.Program) -> PagePool:
        """A decoder's own pages and those of its source get half of the limit each."""
        from qkv.generation.pool import PagePool, default_limit

        if self.kv_cache_bytes is None:
            self.kv_cache_bytes = default_limit()
        both = self._cache_shape is not None and self._source_shape is not None
        return PagePool(shape, self.kv_cache_bytes // (2 if both else 1), program, self.num_threads)

    def read_source(
        self,
        sequences: Sequence[NDArray[np.int32]],
        reservation: Reservation | None = None,
        cancel: _ext.Cancel | None = None,
    ) -> Source:
        """What the encoder finds in some token ids, for the decoder's runs. The pages are given back when it is
        released or forgotten.

        Args:
            reservation: of enough pages of `source_pool`, to be taken over; without it they are reserved here.

        Raises:
            qkv.Error: the model has no encoder beside its decoder; a sequence is empty or too long; there is no room.
            qkv.Cancelled: another thread set `cancel`.
        """
        encoder = self._encoder_for(sequences)
        source = Source.empty(self.source_pool, [len(s) for s in sequences], reservation)
        for some in split_in_batches(source.lengths):
            batch = make_batch([sequences[i] for i in some], source=source.part(some))
            encoder.run([], batch, self.num_threads, cancel)
        return source

    def run_encoder(
        self,
        outputs: Sequence[str],
        sequences: Sequence[NDArray[np.int32]],
        weights: Sequence[Sequence[NDArray[np.float32]]] = (),
    ) -> list[NDArray[np.float32]]:
        """Some of `encoder.outputs`, e.g. "encoder_hidden_states" [tokens, hidden_size]; an array for each.
        `weights`: as in `run_all`.

        Raises:
            qkv.Error: as `read_source`.
        """
        encoder = self._encoder_for(sequences)
        return encoder.run(outputs, make_batch(sequences, weights=weights), self.num_threads)

    def run(self, output: str, sequences: Sequence[NDArray[np.int32]], **options: Any) -> NDArray[np.float32]:
        """One output of a run: see `run_all`."""
        return self.run_all([output], sequences, **options)[0]

    def run_all(
        self,
        outputs: Sequence[str],
        sequences: Sequence[NDArray[np.int32]],
        *,
        wanted: Wanted = "none",
        past: Sequence[int] | None = None,
        planned: Sequence[int] | None = None,
        cache: _ext.KVCache | None = None,
        pages: Sequence[list[int]] | None = None,
        token_type_ids: Sequence[NDArray[np.int32]] | None = None,
        source: Source | None = None,
        weights: Sequence[Sequence[NDArray[np.float32]]] = (),
        cross_weights: Sequence[Sequence[NDArray[np.float32]]] = (),
    ) -> list[NDArray[np.float32]]:
        """One run of the program: `sequences` laid end to end, one call into C++.

        Args:
            outputs: some of `program.outputs`, e.g. "hidden_states" [tokens, hidden], "embedding" [sequences, hidden],
                "logits" [rows, vocab]; an array for each.
            wanted: which rows the logits are for: see `Wanted`.
            past: positions of each sequence that are in the cache already.
            planned: tokens that each sequence will have in the end, needed with a cache where rotary positions depend
                on it (dynamic NTK and LongRoPE); by default those that it has after this run.
            cache, pages: where keys and values are kept, and the pages of each sequence, enough for past and new.
            source: what the encoder read, for each sequence of a decoder.
            weights: where attention weights are written to: for each attention step an array [heads, tokens, keys] for
                each sequence, or nothing. cross_weights: the same for steps of cross-attention.

        Raises:
            qkv.Error: a sequence is too long, or arguments do not fit together.
        """
        lengths = [len(s) for s in sequences]
        for i, length in enumerate(lengths):
            self._check_length(i, length + (past[i] if past else 0))
        if token_type_ids is not None and [len(t) for t in token_type_ids] != lengths:
            raise Error("token_type_ids must be as many and as long as the token ids")
        batch = make_batch(
            sequences,
            wanted,
            past=past,
            planned=planned,
            cache=cache,
            pages=pages,
            token_type_ids=token_type_ids,
            source=source,
            weights=weights,
            cross_weights=cross_weights,
        )
        return self.run_batch(outputs, batch)

    def run_batch(
        self, outputs: Sequence[str], batch: _ext.Batch, cancel: _ext.Cancel | None = None
    ) -> list[NDArray[np.float32]]:
        """`run_all` of what is laid end to end already. What ends a run early, Ctrl-C too, leaves positions of the
        cache before `past` as they are.

        Raises:
            qkv.Error: the batch does not fit the program.
            qkv.Cancelled: another thread set `cancel`.
        """
        return self.program.run(outputs, batch, self.num_threads, cancel)

    def _check_length(self, index: int, tokens: int) -> None:
        if self.context_length is not None and tokens > self.context_length:
            raise Error(
                f"sequence {index} has {tokens} tokens; the model takes at most {self.context_length} "
                "(max_position_embeddings of its config)"
            )

    def _encoder_for(self, sequences: Sequence[NDArray[np.int32]]) -> _ext.Program:
        """The encoder, which can read these sequences."""
        if self.encoder is None:
            raise Error("this model has no encoder that a decoder reads from")
        for i, sequence in enumerate(sequences):
            self._check_length(i, len(sequence))
            if len(sequence) == 0:
                raise Error(f"sequence {i} is empty: there is nothing to read")
        return self.encoder
