"""Tokens to text piece by piece, and stop strings, for any text and any cut into tokens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from qkv.generation.text import Detokenizer, StopStrings, TextStream

WORDS = ["the", "new", "s", "##s", "##er", "it", "'", ".", ","]


def _metaspace() -> Tokenizer:
    """As LLaMA's: words that carry their leading space, and single bytes for all the rest."""
    words = ["▁", "▁the", "▁new", "s", "er", "▁it", "."]
    vocab = {"<unk>": 0, "</s>": 1, **{w: i + 2 for i, w in enumerate(words)}}
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    merges: list[tuple[str, str]] = []
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens([AddedToken("</s>", special=True)])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(["[UNK]", *WORDS])}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _prepended() -> Tokenizer:
    """As newer sentencepiece conversions: the Metaspace decoder strips the first space of a text."""
    words = ["▁", "▁the", "▁new", "s", "er", "▁it", "."]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="▁"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


METASPACE = _metaspace()


def pieces(tokenizer: Tokenizer, ids: list[int], context: list[int] | None = None) -> Iterator[str]:
    detokenizer = Detokenizer(tokenizer, context or [])
    yield from (detokenizer.push(token) for token in ids)
    yield detokenizer.finish()


@given(text=st.text(max_size=120))
@settings(deadline=None)
def test_any_text_comes_out_whole(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    assert "".join(pieces(tokenizer, ids)) == text


@given(text=st.text(alphabet="a🙂é\ufffd日", max_size=150))
@settings(deadline=None)
def test_long_runs_of_many_byte_characters(tokenizer: Tokenizer, text: str) -> None:
    assert "".join(pieces(tokenizer, tokenizer.encode(text).ids)) == text


@pytest.mark.parametrize("text", ["\ufffd" * 60 + "🙂x", "é" * 300, "🙂" * 100, "\ufffd" * 90])
def test_windows_that_never_come_clean(tokenizer: Tokenizer, text: str) -> None:
    assert "".join(pieces(tokenizer, tokenizer.encode(text).ids)) == text


@given(ids=st.lists(st.integers(0, 399), max_size=200))
@settings(deadline=None)
def test_noise_comes_out_as_the_whole_decodes(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Byte-level tokens at random are mostly broken UTF-8."""
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@given(ids=st.lists(st.integers(0, 399), max_size=200), cut=st.integers(0, 20))
@settings(deadline=None)
def test_all_at_once_is_the_same_text(tokenizer: Tokenizer, ids: list[int], cut: int) -> None:
    assert Detokenizer(tokenizer, ids[:cut]).read(ids[cut:]) == "".join(pieces(tokenizer, ids[cut:], ids[:cut]))


@given(text=st.text(max_size=60), cut=st.integers(0, 60))
@settings(deadline=None)
def test_text_carries_on_after_a_prompt(tokenizer: Tokenizer, text: str, cut: int) -> None:
    text = text.replace("\ufffd", "")  # a prompt's end that is U+FFFD looks like half a character
    ids = tokenizer.encode(text).ids
    prompt = tokenizer.decode(ids[:cut])
    complete = prompt.rstrip("\ufffd")  # the cut may be within a character
    assert "".join(pieces(tokenizer, ids[cut:], ids[:cut])) == text[len(complete) :]


@given(
    text=st.lists(st.sampled_from([" the", " new", "s", "er", " it", ".", " ", "  ", "é", "🙂", "日本"])).map("".join),
    cut=st.integers(0, 20),
)
@settings(deadline=None)
def test_leading_spaces_of_sentencepiece(text: str, cut: int) -> None:
    ids = METASPACE.encode(text).ids
    assert METASPACE.decode(ids) == text
    complete = METASPACE.decode(ids[:cut]).rstrip("\ufffd")
    assert "".join(pieces(METASPACE, ids[cut:], ids[:cut])) == text[len(complete) :]


@given(ids=st.lists(st.integers(0, 6), max_size=60), cut=st.integers(0, 60))
@settings(deadline=None)
@pytest.mark.parametrize("tokenizer", [_prepended(), _wordpiece()], ids=["metaspace", "wordpiece"])
def test_words_whose_spaces_depend_on_their_place(tokenizer: Tokenizer, ids: list[int], cut: int) -> None:
    before = tokenizer.decode(ids[:cut])
    assert before + "".join(pieces(tokenizer, ids[cut:], ids[:cut])) == tokenizer.decode(ids)


def test_special_tokens_are_not_text() -> None:
    ids = METASPACE.encode(" the new").ids
    assert "".join(pieces(METASPACE, [1, *ids, 1, *ids])) == METASPACE.decode([*ids, *ids])


def test_pieces_come_as_soon_as_they_are_certain(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("be 🙂 or").ids
    got = list(pieces(tokenizer, ids))
    assert got[-1] == ""
    assert all("\ufffd" not in piece for piece in got)
    assert [len(tokenizer.decode(ids[: i + 1]).rstrip("\ufffd")) for i in range(len(ids))] == [
        len("".join(got[: i + 1])) for i in range(len(ids))
    ]


def test_a_character_that_never_ends_is_shown_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("a🙂").ids[:-1]
    got = list(pieces(tokenizer, ids))
    assert got[-1] == "\ufffd"
    assert "".join(got) == tokenizer.decode(ids)


def test_the_work_per_token_is_bounded(tokenizer: Tokenizer) -> None:
    longest = 0

    class Counting:
        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            nonlocal longest
            longest = max(longest, len(ids))
            return tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    for text in ["to be or not to be " * 200, "\ufffd" * 1000 + "🙂"]:
        ids = tokenizer.encode(text).ids
        prompt = tokenizer.encode("be " * 500).ids
        assert "".join(pieces(Counting(), ids, prompt)) == text  # type: ignore[arg-type]
    assert longest <= 65


# --- stop strings ------------------------------------------------------------------------------------------


def expected_stop(text: str, stops: list[str]) -> tuple[str, bool]:
    """Read character by character: the first stop string to be complete, of equals the longest."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


small_text = st.text(alphabet="ab\n", max_size=25)
stop_lists = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=5), max_size=3)


@given(text_pieces=st.lists(small_text, max_size=8), stops=stop_lists)
@settings(deadline=None)
def test_stop_strings_however_the_text_is_cut(text_pieces: list[str], stops: list[str]) -> None:
    finder = StopStrings(stops)
    got = [finder.push(piece) for piece in text_pieces]
    shown = "".join(got)
    assert expected_stop("".join(text_pieces), stops)[0].startswith(shown)
    assert ("".join([shown, finder.finish()]), finder.found) == expected_stop("".join(text_pieces), stops)


@given(text=small_text, stops=stop_lists)
@settings(deadline=None)
def test_streamed_text_never_contains_a_stop_string(tokenizer: Tokenizer, text: str, stops: list[str]) -> None:
    stream = TextStream(tokenizer, [], stops)
    got = []
    for token in tokenizer.encode(text).ids:
        got.append(stream.push(token))
        if stream.stopped:
            break
    got.append(stream.finish())
    assert "".join(got) == stream.text
    assert not any(stop in stream.text for stop in stops)
    assert (stream.text, stream.stopped) == expected_stop(text, stops)


def test_nothing_is_held_back_without_need() -> None:
    finder = StopStrings(["END"])
    assert [finder.push(piece) for piece in ["a E", "N", "G", "E", "ND b", "c"]] == [
        "a ",
        "",
        "ENG",
        "",
        "",
        "",
    ]
    assert finder.found
    assert finder.finish() == ""
