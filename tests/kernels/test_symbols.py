"""No code built for one instruction set may run on a machine without it.

The danger is a function that several units compile, such as a std:: template: the linker keeps one copy, possibly
AVX-512's, for everyone. The finished module is disassembled to show that kernels share no function with anything,
and that every instruction that not all machines have lies in a function of a namespace whose instruction set has it.
"""

import platform
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from qkv import _ext

MACHINE = platform.machine()
ISAS = {
    "x86_64": {"portable", "avx2", "avx512", "avx512_vnni", "avx512_bf16"},
    "aarch64": {"portable", "neon", "neon_dotprod", "neon_bf16"},
}.get(MACHINE, set())
# Names of instructions that not every machine has. Those with VEX or EVEX, and hardly any others, start with v.
SPECIAL = {
    "x86_64": re.compile(r"v(?!err$|erw$|mcall$|mlaunch$|mresume$)"),
    "aarch64": re.compile(r"([su]|us|su)dot$|(s|u|us|bf)mmla$|bf(dot|mlal|cvt)"),
}.get(MACHINE)
COMMON = {None, "portable", "neon"}  # what must do without them
JUMPS = {"x86_64": ("call", "j"), "aarch64": ("b", "cb", "tb")}.get(MACHINE)

pytestmark = pytest.mark.skipif(not ISAS, reason="written for x86-64 and 64-bit Arm")

OWN_NAMESPACE = re.compile(r"^(?:[\w:]+ )?qkv::(\w+)::\(anonymous namespace\)::")
# What compiler and linker put in by themselves: copies of memory, the checks of a sanitizer build, and on Arm single
# instructions moved out of the way of an erratum of the Cortex-A53 (e843419@ and where it stood).
FROM_THE_COMPILER = re.compile(r"^((mem(set|cpy|move)|__(asan|ubsan)_\w+|__stack_chk_fail)@plt|e843419@[0-9a-f_]+)$")


def unit(function: str) -> str | None:
    """The instruction set that a function was built for; None for what is built for any machine."""
    match = OWN_NAMESPACE.match(function)
    return match[1] if match and match[1] in ISAS else None


@pytest.fixture(scope="module")
def code() -> dict[str, list[tuple[str, str]]]:
    """For each function of the module, its instructions: (mnemonic, operands)."""
    module = Path(str(_ext.__file__))
    tool = shutil.which(f"{MACHINE}-linux-gnu-objdump") or "objdump"  # the machine may be an emulated one
    command = [tool, "--disassemble", "--demangle", "--no-show-raw-insn", module]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    function = ""
    for line in listing.splitlines():
        if start := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            function = start[1]
        elif instruction := re.match(r"\s+([0-9a-f]+):\s+(\S+)\s*(.*)", line):
            address, mnemonic, operands = instruction.groups()
            if mnemonic == "b" and operands.startswith(f"{int(address, 16) + 0x1000:x} "):
                function = ""  # a page of the linker's own: what it moved to avoid erratum 843419 of Cortex-A53
            found[function].append((mnemonic, operands))
    return found


@pytest.fixture(scope="module")
def used(code) -> dict[str | None, set[str]]:
    """For each instruction set (None: code for any machine), its instructions and classes of vector registers."""
    found: dict[str | None, set[str]] = defaultdict(set)
    for function, instructions in code.items():
        for mnemonic, operands in instructions:
            found[unit(function)] |= {mnemonic, *re.findall(r"%([xyz]mm)", operands)}
    return found


def test_each_instruction_set_has_its_own_functions(used):
    """Also shows that this file looks at something: a stripped module has no names of local functions."""
    assert used.keys() == ISAS | {None}


@pytest.mark.skipif(MACHINE != "x86_64", reason="x86 only")
def test_x86(used):
    assert {"ymm", "vfmadd231ps"} <= used["avx2"]
    assert "zmm" not in used["avx2"]
    assert "zmm" in used["avx512"]
    assert "vpdpbusd" not in used["avx512"]
    assert "vpdpbusd" in used["avx512_vnni"]
    assert "vdpbf16ps" not in used["avx512"] | used["avx512_vnni"]
    assert "vdpbf16ps" in used["avx512_bf16"]


@pytest.mark.skipif(MACHINE != "aarch64", reason="Arm only")
def test_arm(used):
    assert "fmla" in used["neon"]
    assert "sdot" not in used["neon"]
    assert "sdot" in used["neon_dotprod"]
    assert not {"bfdot", "bfcvtn"} & used["neon_dotprod"]
    assert {"bfdot", "bfcvtn"} <= used["neon_bf16"]


def test_nothing_else_needs_special_instructions(code):
    leaks = {
        (function, mnemonic)
        for function, instructions in code.items()
        for mnemonic, _ in instructions
        if unit(function) in COMMON and SPECIAL.match(mnemonic)
    }
    assert not leaks


def test_kernels_call_only_functions_of_their_own(code):
    """A function that two units share would be called from both, whichever copy the linker kept."""
    shared = set()
    for function, instructions in code.items():
        for mnemonic, operands in instructions:
            target = re.search(r"(?:^|, )[0-9a-f]+ <(.*?)(\+0x[0-9a-f]+)?>$", operands)
            if unit(function) is None or target is None or not mnemonic.startswith(JUMPS):
                continue
            if unit(target[1]) != unit(function) and not FROM_THE_COMPILER.match(target[1]):
                shared.add((function, target[1]))
    assert not shared
