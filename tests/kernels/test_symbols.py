"""No code built for one instruction set may run on a machine without it.

The danger is a function that several units compile, such as a std:: template: the linker keeps one copy, possibly
AVX-512's, for everyone. The finished module is disassembled to show that kernels share no function with anything,
and that every VEX or EVEX instruction (these, and hardly any others, have names that start with v) lies in a
function of an AVX namespace.
"""

import platform
import re
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from qkv import _ext

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="x86 only")

ISAS = {"portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16"}
NOT_VECTOR = {"verr", "verw", "vmcall", "vmlaunch", "vmresume"}
OWN_NAMESPACE = re.compile(r"^(?:[\w:]+ )?qkv::(\w+)::\(anonymous namespace\)::")
# what a compiler puts in by itself: copies of memory, and the checks of a sanitizer build
FROM_THE_COMPILER = re.compile(r"^(mem(set|cpy|move)|__(asan|ubsan)_\w+|__stack_chk_fail)@plt$")


def unit(function: str) -> str | None:
    """The instruction set that a function was built for; None for what is built for any machine."""
    match = OWN_NAMESPACE.match(function)
    return match[1] if match and match[1] in ISAS else None


@pytest.fixture(scope="module")
def code() -> dict[str, list[tuple[str, str]]]:
    """For each function of the module, its instructions: (mnemonic, operands)."""
    module = Path(str(_ext.__file__))
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", module]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    function = ""
    for line in listing.splitlines():
        if start := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            function = start[1]
        elif instruction := re.match(r"\s+[0-9a-f]+:\s+(\S+)\s*(.*)", line):
            found[function].append((instruction[1], instruction[2]))
    return found


def test_each_instruction_set_has_its_own_functions(code):
    """Also shows that this file looks at something: a stripped module has no names of local functions."""
    used = defaultdict(set)
    for function, instructions in code.items():
        for mnemonic, operands in instructions:
            used[unit(function)] |= {mnemonic, *re.findall(r"%([xyz]mm)", operands)}
    assert used.keys() == ISAS | {None}
    assert {"ymm", "vfmadd231ps"} <= used["avx2"]
    assert "zmm" not in used["avx2"]
    assert "zmm" in used["avx512"]
    assert "vpdpbusd" not in used["avx512"]
    assert "vpdpbusd" in used["avx512_vnni"]
    assert "vdpbf16ps" not in used["avx512"] | used["avx512_vnni"]
    assert "vdpbf16ps" in used["avx512_bf16"]


def test_nothing_else_needs_avx(code):
    leaks = {
        function
        for function, instructions in code.items()
        if unit(function) in (None, "portable")
        and any(mnemonic.startswith("v") and mnemonic not in NOT_VECTOR for mnemonic, _ in instructions)
    }
    assert not leaks


def test_kernels_call_only_functions_of_their_own(code):
    """A function that two units share would be called from both, whichever copy the linker kept."""
    shared = set()
    for function, instructions in code.items():
        for mnemonic, operands in instructions:
            target = re.match(r"[0-9a-f]+ <(.*?)(\+0x[0-9a-f]+)?>$", operands)
            if unit(function) is None or target is None or not mnemonic.startswith(("call", "j")):
                continue
            if unit(target[1]) != unit(function) and not FROM_THE_COMPILER.match(target[1]):
                shared.add((function, target[1]))
    assert not shared
