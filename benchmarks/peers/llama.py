"""How does qkv run a LLaMA of 1.1B parameters, one text at a time, beside llama.cpp and CTranslate2?

    python -m benchmarks.peers.llama --models FOLDER [--dtypes bfloat16 int8 int4] [--threads N] [--json FILE]

llama.cpp's types are bf16, q8_0 (int8) and q4_0 (int4)."""

from __future__ import annotations

from benchmarks.peers import beside

PEERS = {"bfloat16": ["LlamaCpp"], "int8": ["LlamaCpp", "CTranslate2"], "int4": ["LlamaCpp"]}


def main() -> None:
    arguments = beside.arguments_of(__doc__, PEERS).parse_args()
    reports = [
        beside.compare(
            f"LLaMA 1.1B, {dtype}",
            arguments.models / "tinyllama-1.1b",
            dtype,
            peers,
            beside.decoder_cases(),
            arguments,
        )
        for dtype, peers in PEERS.items()
        if dtype in arguments.dtypes
    ]
    beside.write(reports, arguments.json)


if __name__ == "__main__":
    main()
