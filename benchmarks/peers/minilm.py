"""How fast and how well does qkv embed real sentences beside ONNX Runtime, and in how much memory?

    python -m benchmarks.peers.minilm stsb-en-dev.csv --models FOLDER [--dtypes int8] [--threads N] [--json FILE]

The file has rows of two sentences and a similarity (the STS benchmark). Tokenising is part of the work; batches are
of 32 sentences of similar length. Spearman's correlation is that of the embeddings' cosines with the human scores;
memory is the most that an engine's process has held once it has embedded every sentence."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.peers import beside
from benchmarks.peers.worker import Worker

PEERS = {
    "float32": ["OnnxRuntime", "OpenVino", "CTranslate2"],
    "bfloat16": ["OpenVino"],
    "int8": ["OnnxRuntime", "CTranslate2"],
}
SINGLE = 64  # sentences that are embedded one at a time


def main() -> None:
    parser = beside.arguments_of(__doc__, PEERS)
    parser.add_argument("csv", type=Path)
    parser.set_defaults(dtypes=["int8"])
    arguments = parser.parse_args()
    with arguments.csv.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    texts = [row[0] for row in rows] + [row[1] for row in rows]
    human = [float(row[2]) for row in rows]

    def spearman(worker: Worker) -> float:
        vectors = worker.call("embed", texts)
        half = len(rows)
        return float(spearmanr(np.sum(vectors[:half] * vectors[half:], axis=1), human).statistic)

    # The first two need no turns; memory comes before anything else has run.
    facts = {"Spearman's correlation": spearman, "peak memory, MB": lambda w: w.peak_memory() / 1e6}
    cases = [
        beside.Case(f"{len(texts)} together, sentences/s", len(texts), lambda w: w.time("embed", texts)),
        beside.Case("one at a time, sentences/s", SINGLE, lambda w: w.time("embed_each", texts[:SINGLE])),
    ]
    reports = [
        beside.compare(
            f"all-MiniLM-L6-v2, {dtype}", arguments.models / "minilm", dtype, PEERS[dtype], cases, arguments, facts
        )
        for dtype in arguments.dtypes
    ]
    beside.write(reports, arguments.json)


if __name__ == "__main__":
    main()
