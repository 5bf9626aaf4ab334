"""How does qkv run GPT-2 124M, one text at a time, beside CTranslate2?

python -m benchmarks.peers.gpt2 --models FOLDER [--dtypes float32 int8] [--threads N] [--json FILE]"""

from __future__ import annotations

from benchmarks.peers import beside


def main() -> None:
    arguments = beside.arguments_of(__doc__, ("float32", "int8")).parse_args()
    reports = [
        beside.compare(
            f"GPT-2 124M, {dtype}",
            arguments.models / "gpt2",
            dtype,
            ["CTranslate2"],
            beside.decoder_cases(),
            arguments,
        )
        for dtype in arguments.dtypes
    ]
    beside.write(reports, arguments.json)


if __name__ == "__main__":
    main()
