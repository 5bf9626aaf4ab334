"""What QKV_PROFILE=1 prints."""

from __future__ import annotations

import sys

from qkv import _ext


def print_profile(title: str, program: _ext.Program) -> None:
    """Time, share and rate of each step kind over all runs, on stderr."""
    usage = sorted(program.profile().items(), key=lambda item: -item[1][1])
    if not usage:
        return
    total = sum(seconds for _, (_, seconds, _, _) in usage)
    print(f"{title}: {total:.3f} s in steps", file=sys.stderr)
    print(f"{'step':<10}{'calls':>9}{'ms':>11}{'share':>8}{'GFLOP/s':>10}{'GB/s':>8}", file=sys.stderr)
    for kind, (calls, seconds, flops, nbytes) in usage:
        rates = [f"{x / seconds / 1e9:.1f}" if x else "-" for x in (flops, nbytes)]
        row = f"{kind:<10}{calls:>9}{seconds * 1e3:>11.1f}{seconds / total:>8.1%}{rates[0]:>10}{rates[1]:>8}"
        print(row, file=sys.stderr)
