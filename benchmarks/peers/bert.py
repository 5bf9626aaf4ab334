"""How does qkv run BERT-base beside ONNX Runtime, OpenVINO and CTranslate2?

python -m benchmarks.peers.bert --models FOLDER [--dtypes float32 bfloat16 int8] [--threads N] [--json FILE]"""

from __future__ import annotations

from benchmarks.peers import beside

# dtype -> peers, [rows, length] of the batches
WORK = {
    "float32": (["OnnxRuntime", "OpenVino", "CTranslate2"], [(1, 128), (16, 128)]),
    "bfloat16": (["OpenVino"], [(16, 128)]),
    "int8": (["OnnxRuntime", "CTranslate2"], [(1, 16), (1, 128), (16, 128), (4, 512)]),
}


def main() -> None:
    arguments = beside.arguments_of(__doc__, WORK).parse_args()
    reports = []
    for dtype in arguments.dtypes:
        peers, shapes = WORK[dtype]
        cases = [beside.encoder_case(*shape) for shape in shapes]
        title = f"BERT-base, {dtype}"
        reports.append(beside.compare(title, arguments.models / "bert-base", dtype, peers, cases, arguments))
    beside.write(reports, arguments.json)


if __name__ == "__main__":
    main()
