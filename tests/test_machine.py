"""What is found of the machine, how the instruction set is chosen, and what `import qkv` brings along."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import qkv
from qkv import _ext, machine


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True)


def test_info() -> None:
    info = qkv.info()
    assert info["isas"][0] == "portable"
    assert info["isa"] in info["isas"]
    assert 1 <= info["threads"] <= os.cpu_count()
    assert 0 < info["memory_available"] <= info["memory"]


@pytest.mark.parametrize("isa", _ext.available_isas())
def test_environment_chooses_the_isa(isa: str) -> None:
    assert python("import qkv; print(qkv.info()['isa'])", QKV_ISA=isa).stdout.strip() == isa


def test_unknown_isa() -> None:
    done = python("import qkv; qkv.info()", QKV_ISA="avx9")
    assert "'avx9' is not available on this machine; choose one of: portable" in done.stderr
    before = qkv.info()["isa"]
    with pytest.raises(qkv.Error, match="'mmx' is not available"):
        qkv.set_isa("mmx")
    assert qkv.info()["isa"] == before


def test_a_model_keeps_its_isa(tiny_bert) -> None:
    """Choosing another one later neither breaks nor changes a model that is open."""
    before = qkv.info()["isa"]
    model = qkv.load(tiny_bert)
    bits = model.hidden_states([[1, 2, 3]])[0].tobytes()
    try:
        qkv.set_isa("portable")
        assert model.hidden_states([[1, 2, 3]])[0].tobytes() == bits
    finally:
        qkv.set_isa(before)


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_cgroup_quota(files: dict[str, str], cpus: int | None, tmp_path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert machine._cgroup_cpus(tmp_path) == cpus


LIMITS = {
    "none (v2)": ("0::/\n", {"memory.max": "max", "memory.current": "7", "memory.stat": "anon 9"}, None),
    "v2": ("0::/\n", {"memory.max": "1000", "memory.current": "700", "memory.stat": "anon 9\ninactive_file 50"}, 350),
    "v2, more used than allowed": ("0::/\n", {"memory.max": "5", "memory.current": "7", "memory.stat": "anon 9"}, 0),
    "v2, the group around it": (
        "0::/a/b\n",
        {
            "a/memory.max": "100", "a/memory.current": "60", "a/memory.stat": "inactive_file 1",
            "a/b/memory.max": "90", "a/b/memory.current": "10", "a/b/memory.stat": "inactive_file 2",
        },
        41,
    ),
    "v2, its own": (
        "0::/a/b\n",
        {
            "a/memory.max": "max", "a/memory.current": "60", "a/memory.stat": "inactive_file 1",
            "a/b/memory.max": "90", "a/b/memory.current": "10", "a/b/memory.stat": "inactive_file 2",
        },
        82,
    ),
    "v1, seen from inside": (
        "5:cpu:/other\n4:memory:/docker/x\n0::/\n",
        {
            "memory/memory.limit_in_bytes": "1000", "memory/memory.usage_in_bytes": "300",
            "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 20",
        },
        720,
    ),
    "nothing told": ("", {}, None),
}  # fmt: skip


@pytest.mark.parametrize(("groups", "files", "left"), LIMITS.values(), ids=LIMITS)
def test_cgroup_memory(groups: str, files: dict[str, str], left: int | None, tmp_path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    (tmp_path / "self").write_text(groups)
    assert machine._cgroup_memory(tmp_path, tmp_path / "self") == left
    assert machine._cgroup_memory(tmp_path, tmp_path / "gone") is None


def test_available_memory_is_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    free = machine._meminfo("MemAvailable")
    for left, expected in ((None, free), (12345, 12345), (1 << 60, free)):
        monkeypatch.setattr(machine, "_cgroup_memory", lambda left=left: left)
        assert machine.available_memory() == pytest.approx(expected, rel=0.2)


def test_threads_follow_affinity() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import qkv; print(qkv.info()['threads'])"
    )
    assert python(code).stdout.strip() == "1"


def test_import_is_light() -> None:
    """Libraries that are slow to import are imported by what needs them."""
    code = "import sys, qkv; print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = set(python(code).stdout.split())
    assert "numpy" in loaded
    assert not loaded & {
        "torch",
        "transformers",
        "huggingface_hub",
        "tokenizers",
        "safetensors",
        "typer",
        "rich",
        "scipy",
    }
