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
from qkv.source import Source, split_in_batches

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
        tokenizer: a `tokenizers.Tokenizer`, or None when the checkpoint has no tokenizer.json.
        dtype: of the weight matrices, "float32", "bfloat16", "int8" or "int4".
        kv_dtype: of keys and values, cached or not: "float32", "bfloat16" or "int8".
        nbytes: bytes of all weights in memory.
        num_threads: threads of a run.
        program: the steps that run; `print(model.program)` shows them.
        encoder: the steps of an encoder that `program`, a decoder, reads from; None for other models.
        context_length: most tokens of a sequence; None where positions have no end.
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
        self.encoder = lowered.encoder
        self.tokenizer = tokenizer
        self.sentence_modules = sentence_modules
        self.generation_config = generation_config
        self.dtype = dtype
        self.kv_dtype = lowered.kv_dtype
        self.nbytes = nbytes
        self.num_threads = num_threads
        self.context_length: int | None = config.context_length  # type: ignore[attr-defined]
        self.vocab_size: int = config.vocab_size  # type: ignore[attr-defined]
        self.hidden_size = lowered.program.width("hidden_states")
        self._cache_shape = lowered.cache
        self._source_shape = lowered.source_cache
        for name, program in (("", self.program), (" encoder", self.encoder)):
            if program and program.profiling:  # printed when the model is dropped or the process ends
                weakref.finalize(self, _print_profile, repr(self) + name, program)

    def __repr__(self) -> str:
        kind = type(self.config).__module__.rpartition(".")[2]
        return f"<qkv.Model {kind} {self.dtype} {self.nbytes / 1e6:.1f} MB>"

    def hidden_states(
        self,
        batch: Sequence[TokenIds],
        token_type_ids: Sequence[TokenIds] | None = None,
        *,
        decoder_ids: Sequence[TokenIds] | None = None,
    ) -> list[NDArray[np.float32]]:
        """The last hidden state of every token: for each sequence of ids a float32 array [tokens, hidden_size].

        Sequences may differ in length; nothing is padded. A model with an encoder and a decoder reads `batch` with the
        encoder and `decoder_ids`, as many sequences, with the decoder, whose hidden states these are.

        Raises:
            qkv.Error: an id is out of range, a sequence is longer than the model allows, or `decoder_ids` are not what
                the model needs.
        """
        sequences, source = self._read(batch, decoder_ids)
        if not sequences:
            return []
        types = None if token_type_ids is None else as_sequences(token_type_ids, "token_type_ids")
        return _cut(self.run("hidden_states", sequences, token_type_ids=types, source=source), sequences)

    def encoder_hidden_states(self, batch: Sequence[TokenIds]) -> list[NDArray[np.float32]]:
        """The last hidden state of every token of an encoder that a decoder reads: for each sequence of ids a float32
        array [tokens, hidden_size].

        Raises:
            qkv.Error: the model has no encoder beside its decoder, an id is out of range, or a sequence is too long.
        """
        sequences = as_sequences(batch, "token_ids")
        encoder = self._check_source(sequences)
        return _cut(encoder.run(["encoder_hidden_states"], _batch(sequences), self.num_threads)[0], sequences)

    def logits(
        self, batch: Sequence[TokenIds], *, decoder_ids: Sequence[TokenIds] | None = None
    ) -> list[NDArray[np.float32]]:
        """Scores of the token that follows each token: for each sequence a float32 array [tokens, vocab_size].

        A model with an encoder and a decoder reads `batch` with the encoder and `decoder_ids`, as many sequences, with
        the decoder, whose tokens the scores follow. One that classifies texts finds both in `batch`, and gives an array
        [labels] for each.

        Raises:
            qkv.Error: an id is out of range, a sequence is too long, the model has no language-model head, or
                `decoder_ids` are not what the model needs.
        """
        classifies = self.encoder is not None and self.program.rows("logits") == "sequences"
        if classifies:
            if decoder_ids is not None:
                raise Error("logits: this model classifies texts, which its decoder reads again: leave out decoder_ids")
            sequences = as_sequences(batch, "token_ids")
            decoder_ids = [self.config.classified_ids(ids) for ids in sequences]  # type: ignore[attr-defined]
        sequences, source = self._read(batch, decoder_ids)
        if not sequences:
            return []
        rows = self.run("logits", sequences, wanted="all", source=source)
        return list(rows) if classifies else _cut(rows, sequences)

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
        return shape.cache(-(-positions // _ext.page_tokens))

    def read_source(self, sequences: Sequence[NDArray[np.int32]]) -> Source:
        """What the encoder finds in some token ids, for the decoder's runs.

        Raises:
            qkv.Error: the model has no encoder beside its decoder; a sequence is empty or too long.
        """
        encoder = self._check_source(sequences)
        assert self._source_shape
        source = Source.empty(self._source_shape, [len(s) for s in sequences])
        for some in split_in_batches(source.lengths):
            batch = _batch([sequences[i] for i in some], source=source.part(some))
            encoder.run([], batch, self.num_threads)
        return source

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
        cache: _ext.KVCache | None = None,
        pages: Sequence[list[int]] | None = None,
        token_type_ids: Sequence[NDArray[np.int32]] | None = None,
        source: Source | None = None,
    ) -> list[NDArray[np.float32]]:
        """One run of the program: `sequences` laid end to end, one call into C++.

        Args:
            outputs: some of `program.outputs`, e.g. "hidden_states" [tokens, hidden], "embedding" [sequences, hidden],
                "logits" [rows, vocab]; an array for each.
            wanted: which rows the logits are for: every token, the last of each sequence, or none.
            past: positions of each sequence that are in the cache already.
            cache, pages: where keys and values are kept, and the pages of each sequence, enough for past and new.
            source: what the encoder read, for each sequence of a decoder.
        """
        lengths = [len(s) for s in sequences]
        for i, length in enumerate(lengths):
            self._check_length(i, length + (past[i] if past else 0))
        if token_type_ids is not None and [len(t) for t in token_type_ids] != lengths:
            raise Error("token_type_ids must be as many and as long as the token ids")
        batch = _batch(
            sequences, wanted, past=past, cache=cache, pages=pages, token_type_ids=token_type_ids, source=source
        )
        return self.program.run(outputs, batch, self.num_threads)

    def _read(
        self, batch: Sequence[TokenIds], decoder_ids: Sequence[TokenIds] | None
    ) -> tuple[list[NDArray[np.int32]], Source | None]:
        """The sequences that `program` runs on, and what the encoder read for them if there is one."""
        sequences = as_sequences(batch, "token_ids")
        if self.encoder is None:
            if decoder_ids is not None:
                raise Error("decoder_ids are for a model with an encoder and a decoder; this one has only one of them")
            return sequences, None
        if decoder_ids is None:
            raise Error("this model has an encoder, which reads the batch, and a decoder: give decoder_ids for it, too")
        targets = as_sequences(decoder_ids, "decoder_ids")
        if len(targets) != len(sequences):
            raise Error(f"{len(targets)} decoder_ids for a batch of {len(sequences)} sequences; expected one for each")
        return targets, self.read_source(sequences)

    def _check_source(self, sequences: Sequence[NDArray[np.int32]]) -> _ext.Program:
        """The encoder, which can read these."""
        if self.encoder is None:
            raise Error("this model has no encoder that a decoder reads from")
        for i, sequence in enumerate(sequences):
            self._check_length(i, len(sequence))
            if len(sequence) == 0:
                raise Error(f"sequence {i} is empty: there is nothing to read")
        return self.encoder

    def _check_length(self, index: int, tokens: int) -> None:
        if self.context_length is not None and tokens > self.context_length:
            raise Error(
                f"sequence {index} has {tokens} tokens; the model takes at most {self.context_length} "
                "(max_position_embeddings of its config)"
            )


def _batch(
    sequences: Sequence[NDArray[np.int32]],
    wanted: Literal["all", "last", "none"] = "none",
    *,
    past: Sequence[int] | None = None,
    cache: _ext.KVCache | None = None,
    pages: Sequence[list[int]] | None = None,
    token_type_ids: Sequence[NDArray[np.int32]] | None = None,
    source: Source | None = None,
) -> _ext.Batch:
    cu_seqlens = np.cumsum([0, *(len(s) for s in sequences)], dtype=np.int64)
    rows: NDArray[np.int64] = np.empty(0, np.int64)
    if wanted == "all":
        rows = np.arange(cu_seqlens[-1], dtype=np.int64)
    elif wanted == "last":
        rows = cu_seqlens[1:] - 1
    return _ext.Batch(
        token_ids=_joined(sequences),
        cu_seqlens=cu_seqlens,
        type_ids=_joined(token_type_ids or ()),
        wanted=rows,
        past=np.asarray(past if past is not None else [], np.int64),
        cache=cache,
        pages=list(pages or ()),
        source=source.cache if source else None,
        source_pages=source.pages if source else [],
        source_lengths=np.asarray(source.lengths if source else [], np.int64),
    )


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
