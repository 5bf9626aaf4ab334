"""Packed files that are damaged, stale or hostile: a clear error, never a crash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import qkv
from qkv import _ext
from qkv.errors import CheckpointError

Edit = Callable[[Callable[[dict[str, Any], dict[str, Any]], None]], Path]


def test_any_byte_changed(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    content = packed.read_bytes()
    file = tmp_path_factory.mktemp("flipped") / "model.qkv"
    start = 8 + int.from_bytes(content[:8], "little")

    places = st.one_of(
        st.integers(0, start), st.integers(start, len(content) - 1), st.integers(1, 16).map(lambda i: -i)
    )

    @given(places, st.integers(1, 255))
    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def check(place: int, bits: int) -> None:
        changed = bytearray(content)
        changed[place] ^= bits
        file.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"model\.qkv"):
            qkv.load(file)

    check()


def test_any_length_cut_off(packed: Path, tmp_path: Path) -> None:
    content = packed.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    lengths = {0, 1, 7, 8, 9, start - 1, start, start + 1, len(content) - 9, len(content) - 8, len(content) - 1}
    lengths |= {int(n) for n in np.linspace(0, len(content) - 1, 40)}
    for length in lengths:
        (tmp_path / "cut.qkv").write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"cut\.qkv is no packed model, or not all of one; pack"):
            qkv.load(tmp_path / "cut.qkv")


def test_bytes_behind_the_end(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "long.qkv").write_bytes(packed.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="no packed model, or not all of one"):
        qkv.load(tmp_path / "long.qkv")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\0" * 4096, b"PK\x03\x04" * 100])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(CheckpointError, match="other is no packed model"):
        qkv.load(tmp_path / "other")


def test_the_weights_of_a_checkpoint(decoder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a safetensors file, but not one that `qkv pack` wrote.*folder"):
        qkv.load(decoder / "model.safetensors")


def set_own(**values: Any) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    return lambda header, own: own.update(values)


def rename(old: str, new: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(header: dict[str, Any], own: dict[str, Any]) -> None:
        header[new] = header.pop(old)

    return change


def shorten(name: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Cuts an entry in two; the file stays sound safetensors."""

    def change(header: dict[str, Any], own: dict[str, Any]) -> None:
        entry = header[name]
        begin, end = entry["data_offsets"]
        item = 1 if entry["dtype"] == "U8" else 4
        middle = begin + (end - begin) // 2 // 64 * 64
        header[name] = {"dtype": entry["dtype"], "shape": [(middle - begin) // item], "data_offsets": [begin, middle]}
        header["rest"] = {"dtype": entry["dtype"], "shape": [(end - middle) // item], "data_offsets": [middle, end]}

    return change


def retype(name: str, dtype: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(header: dict[str, Any], own: dict[str, Any]) -> None:
        header[name]["dtype"] = dtype

    return change


def misplace(name: str) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """One byte of the entry goes to another one before it, so that it is no longer aligned."""

    def change(header: dict[str, Any], own: dict[str, Any]) -> None:
        entry = header[name]
        begin, end = entry["data_offsets"]
        item = 1 if entry["dtype"] == "U8" else 4
        header["before"] = {"dtype": "U8", "shape": [1], "data_offsets": [begin, begin + 1]}
        header[name] = entry | {"shape": [(end - begin) // item - 1], "data_offsets": [begin + 1, end - item + 1]}
        if item > 1:
            header["behind"] = {"dtype": "U8", "shape": [item - 1], "data_offsets": [end - item + 1, end]}

    return change


def drop_tensor(header: dict[str, Any], own: dict[str, Any]) -> None:
    del own["tensors"]["transformer.h.0.mlp.c_fc.weight"]


def reshape_tensor(header: dict[str, Any], own: dict[str, Any]) -> None:
    own["tensors"]["transformer.h.0.mlp.c_fc.weight"]["shape"] = [64, 10**30]


def break_tensor(header: dict[str, Any], own: dict[str, Any]) -> None:
    own["tensors"]["transformer.h.0.mlp.c_fc.weight"] = [64, "x"]


LAYER = "linear(transformer.h.0.mlp.c_fc.weight.T, transformer.h.0.mlp.c_fc.bias)"
EDITS = {
    "later format": (set_own(format_version=2), r"has version 2 of the packed format; this qkv reads version 1"),
    "odd format": (set_own(format_version=[1]), r"has version \[1\] of the packed format"),
    "other layout": (
        set_own(layout_version=_ext.layout_version + 1),
        r"weights in version \d+ of their layout; this qkv reads version \d+: pack the model again",
    ),
    "other panels": (
        set_own(layout="panels of 3 columns"),
        "packed for another instruction set: it has panels of 3 columns, but the kernels for .* read panels of",
    ),
    "unknown dtype": (set_own(dtype="int3"), "its dtype is 'int3'; expected float32"),
    "no dtype": (lambda header, own: own.pop("dtype"), "the key 'dtype' is missing"),
    "no tensors": (set_own(tensors=[]), "tensors is"),
    "tensor left out": (drop_tensor, "has no tensor 'transformer.h.0.mlp.c_fc.weight'"),
    "tensor of another shape": (reshape_tensor, "expected shape"),
    "broken tensor": (break_tensor, "the entry of tensor 'transformer.h.0.mlp.c_fc.weight' is broken"),
    "files left out": (rename("file: config.json", "x"), "left 'config.json' out; pack the model again"),
    "no tokenizer": (rename("file: tokenizer.json", "x"), "left 'tokenizer.json' out"),
    "weights of another model": (rename(f"panels: {LAYER}", "x"), "belongs to another model"),
    "no bias": (rename(f"bias: {LAYER}", "x"), "belongs to another model"),
    "short panels": (shorten(f"panels: {LAYER}"), r"linear\(.*\): weight: \d+ bytes of panels, not \d+"),
    "short scales": (shorten(f"scales: {LAYER}"), r"weight: \d+ scales, not \d+"),
    "short offsets": (shorten(f"offsets: {LAYER}"), r"weight: \d+ offsets, not \d+"),
    "short bias": (shorten(f"bias: {LAYER}"), r"weight: \d+ values of bias, not \d+"),
    "bias that is not aligned": (misplace(f"bias: {LAYER}"), r"bias: linear\(.*is not aligned"),
    "panels that are not aligned": (misplace(f"panels: {LAYER}"), "weight: "),
    "short norm": (shorten("vector: transformer.h.0.ln_1.weight"), "has 32 values, not 64|has 0 values, not 64"),
    "bias as integers": (retype(f"bias: {LAYER}", "I32"), "has type I32; expected float32"),
    "no checksum": (rename("checksum", "x"), "has no checksum at its end"),
    "no header": (lambda header, own: header.pop("__metadata__"), "not one that `qkv pack` wrote"),
}


@pytest.mark.parametrize(("change", "message"), EDITS.values(), ids=EDITS.keys())
def test_edited_and_sealed_again(edit: Edit, change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        qkv.load(edit(change))
    assert "edited.qkv" in str(caught.value) or "layout" in str(caught.value)


def test_unedited_and_sealed_again(edit: Edit, packed: Path) -> None:
    one, two = qkv.load(edit(lambda header, own: None)), qkv.load(packed)
    assert one.logits([[1, 2, 3]])[0].tobytes() == two.logits([[1, 2, 3]])[0].tobytes()


def test_values_that_nobody_checks_give_wrong_numbers_only(packed: Path, edit: Edit, tmp_path: Path) -> None:
    file = edit(lambda header, own: None)
    content = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:start]))
    for name, entry in header.items():
        if name.startswith(("panels:", "scales:", "offsets:", "bias:", "vector:")):
            begin, end = (start + at for at in entry["data_offsets"])
            content[begin:end] = np.random.default_rng(begin).bytes(end - begin)
    content[-8:] = _ext.checksum(np.frombuffer(bytes(content[:-8]), np.uint8), 1).to_bytes(8, "little")
    file.write_bytes(content)
    assert qkv.load(file).logits([list(range(100))])[0].shape == (100, 400)


def test_another_instruction_set(tiny_gpt2: Path, tmp_path: Path) -> None:
    widths = {}
    before = _ext.chosen_isa()["isa"]
    try:
        for isa in _ext.available_isas():
            _ext.choose_isa(isa)
            qkv.pack(tiny_gpt2, tmp_path / isa, dtype="int8")
            widths[isa] = _ext.layout_traits("int8")
        for isa in widths:
            _ext.choose_isa(isa)
            for other in widths:
                if widths[other] == widths[isa]:
                    qkv.load(tmp_path / other)
                else:
                    with pytest.raises(CheckpointError, match=f"another instruction set.* {isa} read.*pack the model"):
                        qkv.load(tmp_path / other)
    finally:
        _ext.choose_isa(before)


def test_another_dtype(packed: Path) -> None:
    for dtype in ("auto", "int8"):
        assert qkv.load(packed, dtype=dtype).dtype == "int8"
    with pytest.raises(qkv.Error, match=r"tiny\.qkv holds int8 weights, not float32; leave dtype out or pack"):
        qkv.load(packed, dtype="float32")


def test_packed_from(packed: Path, decoder: Path, tiny_gpt2: Path, tmp_path: Path) -> None:
    assert qkv.load(packed, packed_from=decoder).dtype == "int8"
    with pytest.raises(CheckpointError, match="is stale: it was packed from another model"):
        qkv.load(packed, packed_from=tiny_gpt2)
    with pytest.raises(qkv.Error, match="packed_from is about packed files"):
        qkv.load(decoder, packed_from=decoder)


@pytest.mark.parametrize("changed", ["model.safetensors", "tokenizer.json", "config.json", "modules.json"])
def test_packed_from_a_folder_that_changed_since(packed: Path, decoder: Path, tmp_path: Path, changed: str) -> None:
    folder = shutil.copytree(decoder, tmp_path / "folder")
    file = folder / changed
    content = bytearray(file.read_bytes() if file.exists() else b"")
    if changed == "model.safetensors":
        content[-1] ^= 1
    else:
        content += b" "
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="is stale"):
        qkv.load(packed, packed_from=folder)
