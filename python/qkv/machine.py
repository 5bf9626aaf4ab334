"""What this machine has and what qkv chose of it: instruction set, threads, memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from qkv import _ext

__version__ = "0.1.0"


def set_isa(name: str) -> None:
    """Use instruction set `name` (one of `info()["isas"]`) for weights and models made from now on. The environment
    variable QKV_ISA chooses the first one; without it the best is taken.

    Raises:
        qkv.Error: this machine does not have it.
    """
    _ext.choose_isa(name)


def default_threads() -> int:
    """Physical cores that this process may use: its CPU affinity and cgroup quota respected."""
    cores = {_core_of(cpu) for cpu in os.sched_getaffinity(0)}
    return max(1, min(len(cores), _cgroup_cpus() or len(cores)))


def _core_of(cpu: int) -> tuple[str, ...]:
    """Identity of the core behind a logical CPU: hyper-threads of one core share it."""
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return tuple((topology / name).read_text().strip() for name in ("physical_package_id", "core_id"))
    except OSError:  # no topology told (some containers): every logical CPU counts as a core
        return (str(cpu),)


def _cgroup_cpus(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The CPU quota of a container in whole CPUs, rounded up, or None without one (cgroup v2, then v1)."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit():  # "max" (v2) or -1 (v1): no limit
        return None
    return max(1, -(-int(quota) // int(period)))


def available_memory() -> int:
    """Bytes of memory that this process could use now without swapping: Linux's MemAvailable, or what is left of a
    container's limit where that is less."""
    free, left = _meminfo("MemAvailable"), _cgroup_memory()
    return free if left is None else min(free, left)


def _cgroup_memory(root: Path = Path("/sys/fs/cgroup"), of: Path = Path("/proc/self/cgroup")) -> int | None:
    """Bytes left of the memory limits of this process's cgroup and of those around it, or None without a limit.

    Cached files count as used memory, but those that were not read lately are given back when memory is short."""
    left = []
    for line in of.read_text().splitlines() if of.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # v2
            top, names = root, ("memory.max", "memory.current", "inactive_file")
        elif controllers == "memory":  # v1
            top, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        here = top / path.lstrip("/")  # not there in a container that sees its own cgroup as the root
        for group in {here, *here.parents, top}:
            if group.is_relative_to(top) and (found := _left_in(group, *names)) is not None:
                left.append(found)
    return min(left, default=None)


def _left_in(group: Path, limit: str, usage: str, cached: str) -> int | None:
    try:
        most, used = int((group / limit).read_text()), int((group / usage).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or "max": no limit
        return None
    return max(0, most - used + int(stat.get(cached, 0)))


def _meminfo(key: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name == key:
            return int(rest.split()[0]) * 1024
    return 0


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


def info() -> dict[str, Any]:
    """What was found and chosen: `version`, `cpu`, `isa` (chosen), `isas` (usable, best last), `bf16_dot` (whether
    bfloat16 products are single instructions), `threads` (default), `memory` and `memory_available` in bytes."""
    chosen = _ext.chosen_isa()
    return {
        "version": __version__,
        "cpu": _cpu_name(),
        "isa": chosen["isa"],
        "isas": _ext.available_isas(),
        "bf16_dot": chosen["bf16_dot"],
        "threads": default_threads(),
        "memory": _meminfo("MemTotal"),
        "memory_available": available_memory(),
    }
