"""Runs of a model's programs, on batches of token ids."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.batches import make_batch
from qkv.errors import Error
from qkv.graph import Lowered
from qkv.profile import print_profile
from qkv.source import Source, split_in_batches


class Runner:
    """A model's programs, and what they need to run. Safe to use from several Python threads.

    Attributes:
        program: the steps of the model, or of its decoder; `print(model.program)` shows them.
        encoder: the steps of an encoder that `program`, a decoder, reads from; None for other models.
        kv_dtype: of keys and values, cached or not: "float32", "bfloat16" or "int8".
        num_threads: threads of a run.
        context_length: most tokens of a sequence; None where positions have no end.
    """

    def __init__(self, name: str, lowered: Lowered, num_threads: int, context_length: int | None) -> None:
        self.program = lowered.program
        self.encoder = lowered.encoder
        self.kv_dtype = lowered.kv_dtype
        self.num_threads = num_threads
        self.context_length = context_length
        self._cache_shape = lowered.cache
        self._source_shape = lowered.source_cache
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

    def read_source(self, sequences: Sequence[NDArray[np.int32]], cancel: _ext.Cancel | None = None) -> Source:
        """What the encoder finds in some token ids, for the decoder's runs.

        Raises:
            qkv.Error: the model has no encoder beside its decoder; a sequence is empty or too long.
            qkv.Cancelled: another thread set `cancel`.
        """
        encoder = self._encoder_for(sequences)
        assert self._source_shape
        source = Source.empty(self._source_shape, [len(s) for s in sequences])
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
        wanted: Literal["all", "last", "none"] = "none",
        past: Sequence[int] | None = None,
        planned: Sequence[int] | None = None,
        cache: _ext.KVCache | None = None,
        pages: Sequence[list[int]] | None = None,
        token_type_ids: Sequence[NDArray[np.int32]] | None = None,
        source: Source | None = None,
        weights: Sequence[Sequence[NDArray[np.float32]]] = (),
        cross_weights: Sequence[Sequence[NDArray[np.float32]]] = (),
        rows: NDArray[np.int64] | None = None,
        cancel: _ext.Cancel | None = None,
    ) -> list[NDArray[np.float32]]:
        """One run of the program: `sequences` laid end to end, one call into C++.

        Args:
            outputs: some of `program.outputs`, e.g. "hidden_states" [tokens, hidden], "embedding" [sequences, hidden],
                "logits" [rows, vocab]; an array for each.
            wanted: which rows the logits are for: every token, the last of each sequence, or none.
            past: positions of each sequence that are in the cache already.
            planned: tokens that each sequence will have in the end, needed with a cache where rotary positions depend
                on it (dynamic NTK and LongRoPE); by default those that it has after this run.
            cache, pages: where keys and values are kept, and the pages of each sequence, enough for past and new.
            source: what the encoder read, for each sequence of a decoder.
            weights: where attention weights are written to: for each attention step an array [heads, tokens, keys] for
                each sequence, or nothing. cross_weights: the same for steps of cross-attention.
            rows: of tokens, counted through all sequences, that the logits are for, in place of `wanted`.
            cancel: ends the run when another thread sets it. What ends a run early, Ctrl-C too, leaves positions of the
                cache before `past` as they are.

        Raises:
            qkv.Error: a sequence is too long, or arguments do not fit together.
            qkv.Cancelled: another thread set `cancel`.
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
            wanted_rows=rows,
        )
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
