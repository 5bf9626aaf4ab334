"""Writing a packed file: all of it or nothing."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import qkv
from qkv import _ext


def test_anything_that_reads_safetensors_reads_it(packed: Path) -> None:
    with safe_open(packed, framework="numpy") as file:
        assert "qkv" in file.metadata()
        assert file.get_tensor("vector: transformer.ln_f.weight").shape == (64,)
        assert b"model_type" in file.get_tensor("file: config.json").tobytes()


def test_panels_are_aligned(packed: Path) -> None:
    from qkv.checkpoint.tensors import Shard

    panels = [info for name, info in Shard(packed).tensors.items() if name.startswith("panels:")]
    assert panels
    assert all(info.offset % 64 == 0 for info in panels)


def test_a_file_that_exists(decoder: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.qkv"
    file.write_text("precious")
    with pytest.raises(qkv.Error, match=r"model\.qkv exists; replace it with force"):
        qkv.pack(decoder, file)
    assert file.read_text() == "precious"
    qkv.pack(decoder, file, force=True)
    assert qkv.load(file).dtype == "float32"
    with pytest.raises(qkv.Error, match="exists; it is no file that could be replaced"):
        qkv.pack(decoder, tmp_path, force=True)


def test_no_such_folder(decoder: Path, tmp_path: Path) -> None:
    with pytest.raises(qkv.Error, match=r"there is no folder .*nowhere to write x to"):
        qkv.pack(decoder, tmp_path / "nowhere" / "x")


def test_a_packed_file_is_no_checkpoint_to_pack(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(qkv.Error, match="is not a folder"):
        qkv.pack(packed, tmp_path / "x")


def test_ctrl_c_leaves_nothing_behind(decoder: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.qkv"
    file.write_text("precious")

    def stop(done: int, total: int) -> None:
        assert 0 < done <= total
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        qkv.pack(decoder, file, force=True, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["model.qkv"]
    assert file.read_text() == "precious"


def test_progress_ends_at_the_total(decoder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    qkv.pack(decoder, tmp_path / "x", progress=lambda done, total: seen.append((done, total)))
    size = (decoder / "model.safetensors").stat().st_size
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert 0.9 * size < seen[-1][1] < size


def test_a_disk_that_is_full(decoder: Path, tmp_path: Path) -> None:
    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    code = "import sys, qkv\ntry: qkv.pack(sys.argv[1], sys.argv[2])\nexcept qkv.Error as error: print(error)"
    command = [sys.executable, "-c", code, str(decoder), str(tmp_path / "model.qkv")]
    done = subprocess.run(command, preexec_fn=no_large_files, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'model.qkv'} could not be written: File too large\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "int4"])
@pytest.mark.parametrize("layout", ["panels", "gated"])
def test_weight_from_parts(isa: str, dtype: str, layout: str) -> None:
    rows = np.random.default_rng(0).standard_normal((70, 45)).astype(np.float32)
    one = _ext.Weight(140 if layout == "gated" else 70, 45, dtype, layout)
    for half in range(2 if layout == "gated" else 1):
        one.fill(rows * (1 + half), 0, half, 1)
        one.fill_bias(rows[:, 0].copy(), 0, half)
    shape = (140 if layout == "gated" else 70, 45, dtype, layout)
    parts = one.parts()
    assert not parts["panels"].flags.writeable
    two = _ext.Weight.from_parts(*shape, **parts)
    x = rows[:5].copy()
    assert _ext.linear(x, one, "silu", None).tobytes() == _ext.linear(x, two, "silu", None).tobytes()
    assert one.nbytes == two.nbytes
    with pytest.raises(qkv.Error, match="packed already"):
        two.fill(rows, 0, 0, 1)
    with pytest.raises(qkv.Error, match="packed already"):
        two.fill_bias(rows[0].copy(), 0, 0)
    for name in (name for name, values in parts.items() if values is not None):
        with pytest.raises(qkv.Error, match="weight: "):
            _ext.Weight.from_parts(*shape, **parts | {name: parts[name][1:]})
