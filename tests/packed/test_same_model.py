"""A packed model is the model: the same bits, the same text, without the folder it came from."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.tiny import CASES

import qkv

DTYPES = ["float32", "bfloat16", "int8", "int4"]
IDS = [np.arange(1, 30) % 97, np.array([5]), np.arange(70, 1, -1)]


def outputs(model: qkv.Model) -> list[bytes]:
    decoder = {"decoder_ids": IDS[::-1]} if model.encoder else {}
    results = model.hidden_states(IDS, **decoder)
    if "logits" in model.program.outputs:
        classifies = model.program.rows("logits") == "sequences"  # a text that ends with token 2, for BART
        results += model.logits([[*ids, 2] for ids in IDS]) if classifies else model.logits(IDS, **decoder)
    return [rows.tobytes() for rows in results]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_same_bits(tiny, tmp_path: Path, case: str, dtype: str) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "model.qkv"
    qkv.pack(tiny(case), file, dtype=dtype)
    one, two = qkv.load(tiny(case), dtype=dtype), qkv.load(file)
    assert outputs(one) == outputs(two)
    assert (str(one.program), str(one.encoder)) == (str(two.program), str(two.encoder))
    assert (one.config, one.dtype, one.nbytes) == (two.config, two.dtype, two.nbytes)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_on_every_instruction_set(isa: str, tiny_llama: Path, tmp_path: Path, dtype: str) -> None:
    file = tmp_path / "model.qkv"
    qkv.pack(tiny_llama, file, dtype=dtype)
    assert outputs(qkv.load(file)) == outputs(qkv.load(tiny_llama, dtype=dtype))


def test_the_file_is_all_it_takes(decoder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(decoder, tmp_path / "folder")
    expected = qkv.load(folder, dtype="int8").generate("To be", max_new_tokens=20)
    qkv.pack(folder, tmp_path / "model.qkv", dtype="int8")
    shutil.rmtree(folder)
    found = qkv.load(str(tmp_path / "model.qkv")).generate("To be", max_new_tokens=20)
    assert (found.text, found.token_ids) == (expected.text, expected.token_ids)


def test_sentence_embeddings(minilm: Path, tmp_path: Path) -> None:
    qkv.pack(minilm, tmp_path / "model.qkv")
    texts = ["A man is dancing.", "Someone dances, or so it seems.", ""]
    one, two = qkv.load(minilm), qkv.load(tmp_path / "model.qkv")
    assert one.encode(texts).tobytes() == two.encode(texts).tobytes()
    assert one.sentence_modules == two.sentence_modules


def test_packing_twice_gives_the_same_file(decoder: Path, packed: Path, tmp_path: Path) -> None:
    qkv.pack(decoder, tmp_path / "again.qkv", dtype="int8", num_threads=1)
    assert (tmp_path / "again.qkv").read_bytes() == packed.read_bytes()


def test_file_that_is_removed_or_replaced_while_the_model_lives(decoder: Path, packed: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.qkv"
    shutil.copy(packed, file)
    model = qkv.load(file)
    expected = outputs(model)
    qkv.pack(decoder, file, dtype="float32", force=True)
    assert outputs(model) == expected
    file.unlink()
    assert outputs(model) == expected


def test_file_that_is_overwritten_behind_a_copy(packed: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.qkv"
    shutil.copy(packed, file)
    model = qkv.load(file, mmap=False)
    expected = outputs(model)
    file.write_bytes(bytes(file.stat().st_size))
    assert outputs(model) == expected == outputs(qkv.load(packed))


def test_several_processes(packed: Path) -> None:
    code = (
        "import hashlib, sys, qkv; model = qkv.load(sys.argv[1]); "
        "print(hashlib.sha256(model.logits([[1, 2, 3]])[0].tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", code, str(packed)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert found == {hashlib.sha256(qkv.load(packed).logits([[1, 2, 3]])[0].tobytes()).hexdigest()}
