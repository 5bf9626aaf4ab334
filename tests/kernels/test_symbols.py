"""No code built for one instruction set may run on a machine without it.

The danger is a function that several units compile, such as a std:: template: the linker keeps one copy,
possibly AVX-512's, for everyone. In the finished module, every VEX or EVEX instruction (these, and hardly any
others, have names that start with v) must therefore lie in a function of an AVX namespace.
"""

import platform
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from qkv import _ext

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="x86 only"),
    pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump (binutils)"),
]

NOT_VECTOR = {"verr", "verw", "vmcall", "vmlaunch", "vmresume"}
OWN_NAMESPACE = re.compile(r"^(?:\S+ )?qkv::(portable|avx2|avx512|avx512_bf16)::\(anonymous namespace\)::")


@pytest.fixture(scope="module")
def mnemonics() -> dict[str, set[str]]:
    """For each function of the module, the instructions that start with v, with their operands."""
    module = Path(str(_ext.__file__))
    listing = subprocess.run(
        ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", module],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found: dict[str, set[str]] = defaultdict(set)
    function = ""
    for line in listing.splitlines():
        if start := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            function = start[1]
        elif (code := re.match(r"\s+[0-9a-f]+:\s+((v\w+).*)", line)) and code[2] not in NOT_VECTOR:
            found[function].add(code[1])
    return found


def namespace(function: str) -> str | None:
    match = OWN_NAMESPACE.match(function)
    return match and match[1]


def test_each_instruction_set_has_its_own_functions(mnemonics):
    """Also that this file looks at something: a stripped module has no function names."""
    used = defaultdict(str)
    for function, codes in mnemonics.items():
        used[namespace(function) or ""] += "".join(codes)
    assert "ymm" in used["avx2"]
    assert "zmm" not in used["avx2"]
    assert "zmm" in used["avx512"]
    assert "vdpbf16ps" not in used["avx512"]
    assert "vdpbf16ps" in used["avx512_bf16"]


def test_nothing_else_needs_avx(mnemonics):
    leaks = {function for function in mnemonics if namespace(function) in (None, "portable")}
    assert not leaks


def test_kernels_do_not_keep_weak_functions():
    """Weak symbols (W, V, u) are what a linker merges; those of the module must come from baseline units."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("needs nm (binutils)")
    module = Path(str(_ext.__file__))
    lines = subprocess.run([nm, "-C", module], capture_output=True, text=True, check=True).stdout.splitlines()
    symbols = [line.split(maxsplit=2) for line in lines if not line.startswith(" ")]
    kernels = {(kind, name) for _, kind, name in symbols if OWN_NAMESPACE.match(name)}
    assert kernels
    assert {kind for kind, _ in kernels} <= set("trbd")
    tables = {name for _, _, name in symbols if name.startswith("qkv::kernels_")}
    assert tables == {f"qkv::kernels_{isa}" for isa in ("portable", "avx2", "avx512", "avx512_bf16")}
