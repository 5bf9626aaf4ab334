"""What `Options.choose` reads of a model, without a model."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st
from tests.generation.decoders import byte_level_bpe

from qkv.generation import Options

VOCAB = 60_000
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.just(10**400)
    | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=5,
)

tokenizer = functools.cache(byte_level_bpe)


def stub(
    file: dict[str, Any] | None = None, *, vocab: int = VOCAB, encoder: bool = False, tokenizer: Any = None
) -> Any:
    """What `Options.choose` reads of a model."""
    return SimpleNamespace(
        generation_config=file or {},
        config=SimpleNamespace(),
        vocab_size=vocab,
        encoder=object() if encoder else None,
        tokenizer=tokenizer,
    )


def choose(
    file: dict[str, Any] | None = None, *, single: bool = True, streaming: bool = False, **options: Any
) -> Options:
    return Options.choose(stub(file, tokenizer=tokenizer()), options, single=single, streaming=streaming)
