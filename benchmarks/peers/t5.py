"""How does T5-small write 8 texts at once, greedily and with 4 beams, beside CTranslate2?

    python -m benchmarks.peers.t5 --models FOLDER [--dtypes float32 int8] [--threads N] [--json FILE]

int8 is measured beside both of CTranslate2's types, as either may be its faster one. A text ends after 64 tokens, not
sooner; the encoder's time counts."""

from __future__ import annotations

from functools import partial

from benchmarks.peers import beside
from benchmarks.peers.worker import Worker

PEERS = {"float32": ["CTranslate2"], "int8": ["CTranslate2 int8", "CTranslate2 float32"]}
TEXTS, TOKENS = 8, 64  # so many to read, and to write


def main() -> None:
    arguments = beside.arguments_of(__doc__, PEERS).parse_args()
    reports = [
        beside.compare(f"T5-small, {dtype}", arguments.models / "t5-small", dtype, PEERS[dtype], cases(), arguments)
        for dtype in arguments.dtypes
    ]
    beside.write(reports, arguments.json)


def cases() -> list[beside.Case]:
    ids = beside.random_ids(TEXTS, TOKENS)

    def seconds(worker: Worker, *, beams: int) -> float:
        return worker.time("translate", ids, TOKENS, beams)

    return [
        beside.Case(
            f"{TEXTS} x {TOKENS} to {TOKENS}, {name}, new tokens/s", TEXTS * TOKENS, partial(seconds, beams=beams)
        )
        for name, beams in (("greedy", 1), ("4 beams", 4))
    ]


if __name__ == "__main__":
    main()
