"""The extension module: kernels and program executor.

Sizes are checked, and `qkv.Error` is raised when they do not fit.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict, final, type_check_only

import numpy as np
import numpy.typing as npt

from qkv.generation.sequence import CachedSequence

_Float32 = npt.NDArray[np.float32]

# --- instruction sets ---------------------------------------------------------------------------------------

@type_check_only
class _Isa(TypedDict):
    isa: str
    panel: int  # columns of a weight panel
    lanes: int  # float32 lanes of a vector
    bf16_dot: bool  # bfloat16 products are single instructions

page_tokens: int
"""Positions of a KV page."""

def available_isas() -> list[str]:
    """Instruction sets this machine can run, best last."""

def choose_isa(name: str) -> None:
    """Use this instruction set for what is built from now on."""

def chosen_isa() -> _Isa: ...

# --- weights ------------------------------------------------------------------------------------------------

@final
class Weight:
    """A weight matrix packed for the chosen instruction set."""

    def __init__(self, out_features: int, in_features: int, dtype: str, layout: str) -> None:
        """`dtype`: float32, bfloat16, int8 or int4.

        `layout`: panels, gated (two halves of out_features / 2) or rows.
        """

    def fill(self, rows: npt.NDArray[np.generic], at: int, half: int, threads: int) -> None:
        """Packs `rows` as rows `at`, `at + 1`, ...

        They are float32, float16, or uint16 for bfloat16 bits; any strides.
        """

    def fill_bias(self, values: npt.NDArray[np.generic], at: int, half: int) -> None: ...
    @staticmethod
    def from_parts(
        out_features: int,
        in_features: int,
        dtype: str,
        layout: str,
        panels: npt.NDArray[np.uint8],
        scales: _Float32 | None,
        offsets: npt.NDArray[np.int32] | None,
        bias: _Float32 | None,
    ) -> Weight:
        """A weight from the parts of another one like it.

        `panels` stay where they are and must never change; the others are copied.
        """

    def parts(self) -> dict[str, npt.NDArray[Any] | None]:
        """The arguments panels, scales, offsets and bias of `from_parts`, looking at the weight's own memory."""

    @property
    def nbytes(self) -> int: ...

layout_version: int
"""Goes up whenever packed bytes mean something else than before."""

def layout_traits(dtype: str) -> str:
    """What else packed bytes depend on, for the chosen instruction set: equal traits, equal layout."""

def checksum(bytes: npt.NDArray[np.uint8], threads: int) -> int:
    """64 bits over all bytes: XXH64 of the XXH64s of blocks of 1 MiB."""

def activations_of(dtype: str) -> Literal["float32", "bfloat16", "int8"]:
    """The type of activations that linear layers with weights of this type read."""

# --- programs -----------------------------------------------------------------------------------------------

def page_nbytes(layers: int, kv_heads: int, head_dim: int, type: str) -> int: ...

@final
class KVCache:
    """Keys and values of past tokens, in pages of `page_tokens` positions, shared by reference count."""

    def __init__(self, layers: int, kv_heads: int, head_dim: int, type: str, max_bytes: int) -> None:
        """`type`: float32, bfloat16 or int8."""

    def allocate(self) -> int: ...
    def retain(self, page: int) -> None: ...
    def release(self, page: int) -> None: ...
    def references(self, page: int) -> int: ...
    def copy(self, source: int, target: int, first: int, positions: int, threads: int) -> None:
        """`positions` positions of a page, from `first` on, to the same place in another that is like it before."""

    def trim(self, kept: int = 0) -> None:
        """Gives the memory of free pages back to the system, of all but `kept` bytes."""

    def read(self, page: int, positions: int) -> npt.NDArray[np.uint8]:
        """[page_nbytes]: the bytes of its first `positions` positions, and zeros."""

    def write(self, page: int, bytes: npt.NDArray[np.uint8]) -> None: ...
    @property
    def pages_in_use(self) -> int: ...
    @property
    def max_pages(self) -> int: ...
    @property
    def page_nbytes(self) -> int: ...

@final
class Cancel:
    """A flag that ends a run from another thread, for good."""

    def __init__(self) -> None: ...
    def set(self) -> None: ...
    def is_set(self) -> bool: ...

@final
class Batch:
    """What one run works on: sequences laid end to end."""

    def __init__(
        self,
        token_ids: npt.ArrayLike,
        cu_seqlens: npt.ArrayLike,
        type_ids: npt.ArrayLike,
        wanted: npt.ArrayLike,
        past: npt.ArrayLike,
        cache: KVCache | None = None,
        pages: Sequence[Sequence[int]] = (),
        source: KVCache | None = None,
        source_pages: Sequence[Sequence[int]] = (),
        source_lengths: npt.ArrayLike = (),
        planned: npt.ArrayLike = (),
        weights: list[list[_Float32]] = ...,
        cross_weights: list[list[_Float32]] = ...,
    ) -> None:
        """`cache` and `pages`: of past and of these tokens; `source`...: an encoder's, see csrc/cpu/program.h.

        planned: tokens that each sequence will have in the end. weights: for each attention step nothing, or for each
        sequence an array [heads, tokens, keys] that its attention weights are written to.
        """

    @staticmethod
    def of_sequences(
        cache: KVCache,
        sequences: list[CachedSequence],
        counts: Sequence[int],
        rows: Sequence[int],
        drafts: list[Sequence[int]] = ...,
    ) -> Batch:
        """Of each sequence the `counts` ids that follow those in the cache, and then its drafts; they get pages. Logits
        are wanted for the last `rows` of these tokens."""

    @property
    def past(self) -> list[int]:
        """Of each sequence: positions that are in the cache already."""

    @property
    def tokens(self) -> int: ...

def advance(sequences: list[CachedSequence], counts: Sequence[int]) -> list[CachedSequence]:
    """So many more tokens of each are in the cache. Returns those that have come to the end of a page, or beyond."""

@final
class LongRotary:
    """What turns sequences that are planned to be longer than `length`, see csrc/cpu/program.h."""

    def __init__(self, length: int, inverse_frequencies: Sequence[float], scale: float, ntk_factor: float) -> None: ...

@final
class AttentionShape:
    """What attention computes for every sequence."""

    def __init__(
        self,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scale: float,
        causal: bool,
        window: int = 0,
        soft_cap: float = 0,
        slopes: _Float32 | None = None,
        rounded_alibi: bool = False,
        relative_bias: _Float32 | None = None,
        kv_type: str = "float32",
        interleaved: bool = False,
    ) -> None:
        """`window` and `soft_cap`: 0 for none. slopes: [heads]; relative_bias: [heads, 2 n + 1] of distances -n ... n.

        rounded_alibi: instead of slope |key - query|, scores lose scale (t(query) - t(key)), where t is the product of
        slope and position with both, and the product, rounded to bfloat16.
        kv_type: what pages hold keys and values as: float32, bfloat16 or int8.
        """

_View = tuple[int, int, int]  # buffer, first column, columns

@final
class Program:
    """Steps over numbered buffers; `str(program)` prints one line for each."""

    def __init__(self) -> None: ...
    def buffer(self, width: int, rows: str, dtype: str = "float32") -> int:
        """`rows`: tokens, sequences or logits. `dtype`: float32, or bfloat16 or int8 for what linear steps read."""

    def embed(
        self,
        out: int,
        tokens: Weight,
        scale: float,
        positions: Weight | None,
        position_offset: int,
        types: Weight | None,
    ) -> None: ...
    def rotary(
        self, out: int, inverse_frequencies: Sequence[float], scale: float, beyond: LongRotary | None = None
    ) -> None: ...
    def norm(
        self,
        out: int,
        x: _View,
        weight: Sequence[float],
        bias: Sequence[float],
        eps: float,
        centred: bool,
        converted: int = -1,
    ) -> None:
        """`converted`: a buffer for the same rows as linear steps read them."""

    def convert(self, out: int, x: int) -> None:
        """float32 rows to the type of `out`."""

    def linear(self, out: int, x: int, weight: Weight, activation: str, residual: int) -> None: ...
    def experts(
        self,
        out: int,
        x: int,
        router: int,
        gate_up: Sequence[Weight],
        down: Sequence[Weight],
        activation: str,
        top_k: int,
        residual: int,
    ) -> None:
        """`router`: a buffer of logits, one for each expert; `gate_up`: gated weights."""

    def attention(
        self,
        out: int,
        q: _View,
        k: _View,
        v: _View,
        rotary: int,
        layer: int,
        shape: AttentionShape,
    ) -> None: ...
    def map(self, out: int, x: int, function: str, before: float, after: float) -> None:
        """after * function(before * x)"""

    def combine(self, out: int, a: int, b: int, kind: Literal["add", "multiply"]) -> None: ...
    def store(self, k: _View, v: _View, layer: int, shape: AttentionShape) -> None:
        """An encoder's keys and values, for the decoder's cross-attention."""

    def cross_attention(self, out: int, q: _View, layer: int, shape: AttentionShape) -> None: ...
    def gather(self, out: int, x: int) -> None: ...
    def pool(self, out: int, x: int, pooling: str) -> None: ...
    def output(self, name: str, buffer: int) -> None: ...
    def maxima(self, name: str) -> None:
        """An output: the maxima of equal parts of each row that the last step, a linear layer, wrote."""

    def width(self, output: str) -> int: ...
    def rows(self, output: str) -> Literal["tokens", "sequences", "logits"]: ...
    @property
    def outputs(self) -> list[str]: ...
    def run(self, outputs: Sequence[str], batch: Batch, threads: int, cancel: Cancel | None = None) -> list[_Float32]:
        """One array for each output; without outputs all steps run, for what they store.

        Ends early with what a signal handler raises (on Python's main thread), or with qkv.Cancelled once `cancel` is
        set. Positions of the cache from `past` on hold anything then.
        """

    @property
    def reach(self) -> int | None:
        """The most positions before its own that a query looks at, in any layer; None when one sees all of them.

        A sequence that has `past` positions may list page -1 for those wholly before `past - reach`.
        """

    def rotary_class(self, planned: int) -> int:
        """What keys and values depend on beside the tokens, for a sequence of so many tokens in the end.

        Sequences of equal classes can share pages.
        """

    @property
    def attention_heads(self) -> list[int]:
        """Of each attention step."""

    @property
    def cross_attention_heads(self) -> list[int]: ...
    @property
    def profiling(self) -> bool: ...
    def profile(self) -> dict[str, tuple[int, float, float, float]]:
        """For each step kind: calls, seconds, floating point operations, bytes."""

# --- what is done to logits before a token is chosen ---------------------------------------------------------

@final
class LogitRules:
    """Of one request; see csrc/cpu/logit_rules.h."""

    def __init__(
        self,
        *,
        start: int,
        max_length: int,
        eos_token_id: Sequence[int],
        source: Sequence[int],
        logit_bias: Sequence[tuple[int, float]],
        encoder_repetition_penalty: float,
        repetition_penalty: float,
        presence_penalty: float,
        frequency_penalty: float,
        no_repeat_ngram_size: int,
        encoder_no_repeat_ngram_size: int,
        bad_words_ids: Sequence[Sequence[int]],
        min_length: int,
        min_new_tokens: int,
        forced_bos_token_id: Sequence[int],
        forced_eos_token_id: Sequence[int],
        suppress_tokens: Sequence[int],
        begin_suppress_tokens: Sequence[int],
    ) -> None: ...
    @property
    def active(self) -> bool: ...

def apply_rules(
    rules: Sequence[LogitRules | None],
    ids: Sequence[Sequence[int]],
    logits: _Float32,
    threads: int = 1,
    maxima: _Float32 | None = None,
) -> None:
    """Changes logits [rows, vocabulary] in place: row i by rules[i], for the token that follows ids[i]; and `maxima`,
    as for `choose`, into those of the changed logits."""

# --- from logits to tokens ----------------------------------------------------------------------------------

@final
class SamplingFilters:
    """Which tokens may be drawn; see csrc/cpu/sampling.h."""

    def __init__(
        self,
        temperature: float = 1,
        top_k: int = 0,
        top_p: float = 1,
        min_p: float = 0,
        typical_p: float = 1,
        epsilon_cutoff: float = 0,
        eta_cutoff: float = 0,
    ) -> None: ...

def candidates(filters: SamplingFilters, logits: _Float32) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The tokens that pass, and their probabilities. logits: [vocabulary]."""

def choose(
    filters: Sequence[SamplingFilters | None],
    logits: _Float32,
    draws: Sequence[float],
    threads: int = 1,
    maxima: _Float32 | None = None,
) -> list[int]:
    """A token for each row of logits [rows, vocabulary]: the likeliest where there are no filters.

    It is -1 where a logit is NaN, or the largest is infinite. draws: uniform in [0, 1). maxima: the program's
    "logit_maxima" for these very logits, where it has them: most logits need not be read then.
    """

def uniform(seed: int, stream: int, step: int) -> float:
    """Number `step` of a stream of random numbers, in [0, 1)."""

def best_continuations(
    scores: _Float32,
    running: Sequence[float],
    groups: Sequence[tuple[int, int]],
    threads: int = 1,
    maxima: _Float32 | None = None,
    logits: bool = False,
) -> list[list[tuple[float, int, int]]]:
    """For each group the best (score, beam, token), best first; of equal ones the first.

    scores: [rows, vocabulary], to which `running` [rows] is added. groups: (rows, continuations wanted); beams are
    counted within them. Minus infinity is left out. A group is empty where a score is NaN or plus infinity. maxima: as
    for `choose`, of the scores. With `logits` these are in `scores`' place, and it is as after `log_softmax`, which
    takes longer, as it writes all of them.
    """

def log_softmax(logits: _Float32, threads: int = 1, maxima: _Float32 | None = None) -> None:
    """Turns rows of logits [rows, vocabulary] into log probabilities, in place; and `maxima`, as for `choose`, into
    those of the log probabilities."""

def logprobs(
    logits: _Float32, tokens: npt.NDArray[np.int64], top_n: int = 0, threads: int = 1
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Log probabilities of one token of each row of logits [rows, vocabulary], and of the likeliest tokens.

    Returns those of `tokens` [rows], and the ids [rows, top_n] and log probabilities [rows, top_n] of the likeliest,
    of equally likely ones the lowest id first. They are NaN in a row with a NaN, +inf, or -inf only.
    """

# --- kernels on arrays: C-contiguous float32 ----------------------------------------------------------------

def map(function: str, x: _Float32, threads: int = 1) -> _Float32:
    """`function`: identity, relu, gelu, gelu_tanh, quick_gelu, silu, tanh, sigmoid, erf or exp."""

def softmax(x: _Float32, threads: int = 1) -> _Float32:
    """Along the last axis."""

def norm(x: _Float32, weight: _Float32, bias: _Float32 | None, eps: float, centred: bool, threads: int = 1) -> _Float32:
    """LayerNorm when `centred`, otherwise RMSNorm, along the last axis."""

def linear(x: _Float32, weight: Weight, activation: str, residual: _Float32 | None, threads: int = 1) -> _Float32:
    """x: [rows, in] -> [rows, out], or half of `out` for a gated weight."""

def rope(x: _Float32, rotary: _Float32, interleaved: bool = False, threads: int = 1) -> _Float32:
    """x: [..., tokens, head_dim]; rotary: [tokens, rotary_dim], cosines, then sines.

    Pairs are (2i, 2i + 1) when `interleaved`, otherwise (i, i + rotary_dim / 2).
    """

def attention(
    q: _Float32,
    k: _Float32,
    v: _Float32,
    rotary: _Float32 | None,
    causal: bool,
    scale: float,
    threads: int = 1,
    window: int = 0,
    soft_cap: float = 0,
    slopes: _Float32 | None = None,
    rounded_alibi: bool = False,
    relative_bias: _Float32 | None = None,
    kv_type: str = "float32",
    weights: _Float32 | None = None,
) -> _Float32:
    """q: [batch, tokens, heads, head_dim]; k, v: [batch, keys, kv_heads, head_dim].

    rotary: [keys, rotary_dim], of which queries take the last rows. weights: [batch, heads, tokens, keys], to be
    written into. The rest is as in `AttentionShape`.
    """

# --- ceilings: what the machine gives, timed ----------------------------------------------------------------

def peak_rate(dtype: str, threads: int, seconds: float) -> float:
    """Operations per second on products of this type, with operands in L1; a multiply-add counts as two."""

@final
class Stream:
    """Memory to read."""

    def __init__(self, nbytes: int) -> None: ...
    def read_rate(self, threads: int, seconds: float) -> float:
        """Bytes read per second, all of it over and over for at least `seconds`."""

def linear_seconds(
    x: _Float32,
    weight: Weight,
    activation: str,
    residual: _Float32 | None,
    prepared: bool,
    threads: int,
    seconds: float,
) -> float:
    """Seconds of one `linear`, repeated for at least `seconds`.

    `prepared`: x is converted for the kernel beforehand, and not in that time.
    """
