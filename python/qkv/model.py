"""A checkpoint, opened: ids in, vectors and logits out; and text in, through `tasks` and `generation`."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from qkv import _ext
from qkv.checkpoint import Config, SentenceModules
from qkv.errors import Error
from qkv.graph import Lowered

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from qkv.generation import Generation
    from qkv.generation.prompts import Prompt
    from qkv.generation.streamer import Streamer

TokenIds = Sequence[int] | NDArray[np.integer[Any]]


class Model:
    """A model ready to run. Made by `qkv.load`; safe to use from several Python threads.

    Attributes:
        config: the checkpoint's configuration, in its own spelling.
        tokenizer: a `tokenizers.Tokenizer`, or None when the checkpoint has none.
        dtype: of the weight matrices, "float32", "bfloat16", "int8" or "int4".
        kv_dtype: of keys and values, cached or not: "float32", "bfloat16" or "int8".
        nbytes: bytes of all weights in memory.
        num_threads: threads of a run.
        program: the steps that run; `print(model.program)` shows them.
    """

    def __init__(
        self,
        *,
        config: Config,
        lowered: Lowered,
        tokenizer: Tokenizer | None,
        sentence_modules: SentenceModules,
        generation_config: dict[str, Any],
        dtype: str,
        nbytes: int,
        num_threads: int,
    ) -> None:
        self.config = config
        self.program = lowered.program
        self.tokenizer = tokenizer
        self.sentence_modules = sentence_modules
        self.generation_config = generation_config
        self.dtype = dtype
        self.kv_dtype = lowered.kv_dtype
        self.nbytes = nbytes
        self.num_threads = num_threads
        self.context_length: int = config.context_length  # type: ignore[attr-defined]
        self.vocab_size: int = config.vocab_size  # type: ignore[attr-defined]
        self.hidden_size = lowered.program.width("hidden_states")
        self._cache_shape = lowered.cache
        if self.program.profiling:  # printed when the model is dropped or the process ends
            weakref.finalize(self, _print_profile, repr(self), self.program)

    def __repr__(self) -> str:
        kind = type(self.config).__module__.rpartition(".")[2]
        return f"<qkv.Model {kind} {self.dtype} {self.nbytes / 1e6:.1f} MB>"

    def hidden_states(
        self, batch: Sequence[TokenIds], token_type_ids: Sequence[TokenIds] | None = None
    ) -> list[NDArray[np.float32]]:
        """The last hidden state of every token: for each sequence of ids a float32 array [tokens, hidden_size].

        Sequences may differ in length; nothing is padded.

        Raises:
            qkv.Error: an id is out of range, or a sequence is longer than the model allows.
        """
        sequences = as_sequences(batch, "token_ids")
        types = None if token_type_ids is None else as_sequences(token_type_ids, "token_type_ids")
        return _cut(self.run("hidden_states", sequences, token_type_ids=types), sequences)

    def logits(self, batch: Sequence[TokenIds]) -> list[NDArray[np.float32]]:
        """Scores of the token that follows each token: for each sequence a float32 array [tokens, vocab_size].

        Raises:
            qkv.Error: an id is out of range, a sequence is too long, or the model has no language-model head.
        """
        sequences = as_sequences(batch, "token_ids")
        return _cut(self.run("logits", sequences, wanted="all"), sequences)

    def encode(
        self,
        texts: str | Sequence[str],
        batch_size: int = 32,
        normalize_embeddings: bool = False,
        show_progress_bar: bool | None = None,
    ) -> NDArray[np.float32]:
        """Embeddings of texts, [n, hidden_size] float32 ([hidden_size] for a single string).

        Pooled as the checkpoint's modules.json says (the mean of all tokens without one) and normalised to length
        1 if it says so or `normalize_embeddings` is set. Texts beyond the model's length are cut, as
        sentence-transformers does. Batches are made of texts of similar length; the order of the result is that of
        `texts`. `show_progress_bar` None: on a terminal, for more than four batches.

        Raises:
            qkv.Error: there is no tokenizer, or an argument is not what it should be.
        """
        from qkv.tasks.embed import encode

        return encode(self, texts, batch_size, normalize_embeddings, show_progress_bar)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        max_new_tokens: int = 128,
        do_sample: bool = False,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop_strings: str | Sequence[str] | None = None,
        streamer: Streamer | None = None,
        stream: bool = False,
    ) -> Generation | list[Generation] | Iterator[str]:
        """Continue a prompt, or many as one batch: greedy by default, sampled with `do_sample`.

        A `Generation` for one prompt, a list for a list, an iterator over pieces of text with `stream`. Every
        option is described at `qkv.generation.generate`.

        Raises:
            qkv.Error: an argument is not what it should be, or the model is not a decoder.
        """
        from qkv.generation import generate

        return generate(
            self,
            prompts,
            max_new_tokens=max_new_tokens,
            do_sample=do_sample,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop_strings=stop_strings,
            streamer=streamer,
            stream=stream,
        )

    def new_cache(self, positions: int) -> _ext.KVCache:
        """An empty KV cache with room for `positions` positions, spread over any number of sequences by pages.

        Raises:
            qkv.Error: the model looks both ways, so past tokens can't be cached.
        """
        shape = self._cache_shape
        if shape is None:
            raise Error("this model has no causal attention: there is nothing to cache or to generate")
        sizes = (shape.layers, shape.kv_heads, shape.head_dim, shape.dtype)
        pages = -(-positions // _ext.page_tokens)
        return _ext.KVCache(*sizes, pages * _ext.page_nbytes(*sizes))

    def run(
        self,
        output: str,
        sequences: Sequence[NDArray[np.int32]],
        *,
        wanted: Literal["all", "last", "none"] = "none",
        past: Sequence[int] | None = None,
        cache: _ext.KVCache | None = None,
        pages: Sequence[list[int]] | None = None,
        token_type_ids: Sequence[NDArray[np.int32]] | None = None,
    ) -> NDArray[np.float32]:
        """One run of the program: `sequences` laid end to end, one call into C++.

        Args:
            output: "hidden_states" [tokens, hidden], "embedding" [sequences, hidden] or "logits" [rows, vocab].
            wanted: which rows the logits are for: every token, the last of each sequence, or none.
            past: positions of each sequence that are in the cache already.
            cache, pages: where keys and values are kept, and the pages of each sequence, enough for past and new.
        """
        lengths = [len(s) for s in sequences]
        for i, length in enumerate(lengths):
            total = length + (past[i] if past else 0)
            if total > self.context_length:
                raise Error(
                    f"sequence {i} has {total} tokens; the model takes at most {self.context_length} "
                    "(max_position_embeddings of its config)"
                )
        if token_type_ids is not None and [len(t) for t in token_type_ids] != lengths:
            raise Error("token_type_ids must be as many and as long as the token ids")
        cu_seqlens = np.cumsum([0, *lengths], dtype=np.int64)
        rows: NDArray[np.int64] = np.empty(0, np.int64)
        if wanted == "all":
            rows = np.arange(cu_seqlens[-1], dtype=np.int64)
        elif wanted == "last":
            rows = cu_seqlens[1:] - 1
        batch = _ext.Batch(
            token_ids=_joined(sequences),
            cu_seqlens=cu_seqlens,
            type_ids=_joined(token_type_ids or ()),
            wanted=rows,
            past=np.asarray(past if past is not None else [], np.int64),
            cache=cache,
            pages=list(pages or ()),
        )
        return self.program.run(output, batch, self.num_threads)


def as_sequences(batch: Sequence[TokenIds], what: str) -> list[NDArray[np.int32]]:
    """Checked int32 arrays of a batch of ids.

    Raises:
        qkv.Error: a sequence is not a list of integers that fit int32.
    """
    if isinstance(batch, str | bytes) or not hasattr(batch, "__iter__"):
        raise Error(f"{what}: expected a list of sequences of token ids, got {type(batch).__name__}")
    return [_as_ids(sequence, f"{what}[{i}]") for i, sequence in enumerate(batch)]


def _as_ids(sequence: TokenIds, what: str) -> NDArray[np.int32]:
    try:
        ids = np.asarray(sequence)
    except ValueError:
        ids = np.asarray(None)  # ragged: not a sequence of integers
    if ids.size == 0 and ids.ndim == 1:
        return np.empty(0, np.int32)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise Error(f"{what}: expected a sequence of integer token ids, got {sequence!r:.80}")
    if ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
        raise Error(f"{what}: token id {ids.min() if ids.min() < 0 else ids.max()} is out of range")
    return ids.astype(np.int32)


def _joined(sequences: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    return np.concatenate(sequences) if len(sequences) else np.empty(0, np.int32)


def _cut(rows: NDArray[np.float32], sequences: Sequence[NDArray[np.int32]]) -> list[NDArray[np.float32]]:
    """Rows of all tokens, cut back into sequences."""
    ends = np.cumsum([len(s) for s in sequences])
    return np.split(rows, ends[:-1]) if len(sequences) else []


def _print_profile(title: str, program: _ext.Program) -> None:
    """Time, share and rate of each step kind over all runs, on stderr."""
    usage = sorted(program.profile().items(), key=lambda item: -item[1][1])
    if not usage:
        return
    total = sum(seconds for _, (_, seconds, _, _) in usage)
    print(f"{title}: {total:.3f} s in steps", file=sys.stderr)
    print(f"{'step':<10}{'calls':>9}{'ms':>11}{'share':>8}{'GFLOP/s':>10}{'GB/s':>8}", file=sys.stderr)
    for kind, (calls, seconds, flops, nbytes) in usage:
        rates = [f"{x / seconds / 1e9:.1f}" if x else "-" for x in (flops, nbytes)]
        row = f"{kind:<10}{calls:>9}{seconds * 1e3:>11.1f}{seconds / total:>8.1%}{rates[0]:>10}{rates[1]:>8}"
        print(row, file=sys.stderr)
