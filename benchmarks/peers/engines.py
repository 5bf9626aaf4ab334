"""One class per engine: opens a model and runs it as that engine's own documentation would. Each lives in a process of
its own (see worker.py), so libraries are imported where they are used.

Encoders have `hidden_states(ids, mask)` and `embed(texts)`, decoders `prefill(ids)` and `generate(ids, new_tokens)`,
encoders with a decoder `translate(ids, new_tokens, beams)`; `about` says which version, instruction set and number of
threads run. Ids are int64 arrays, [length] for decoders and [rows, length] for others; hidden states are [rows, length,
hidden_size].
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import files

Array = np.ndarray
BATCH_SIZE = 32
MAX_TOKENS = 256  # of a sentence, as all-MiniLM-L6-v2 was trained


class Sentences(ABC):
    @abstractmethod
    def embed(self, texts: list[str]) -> Array:
        """[n, hidden_size]"""

    def embed_each(self, texts: list[str]) -> list[Array]:
        """As a server does that gets one at a time."""
        return [self.embed([text]) for text in texts]


class Padded(Sentences):
    """Sentences for engines that take token ids: batches of similar length, padded, their hidden states averaged."""

    def __init__(self, tokenizer: Path) -> None:
        self.tokenizer_file = tokenizer

    @abstractmethod
    def hidden_states(self, ids: Array, mask: Array) -> Array:
        """[rows, length, hidden_size]"""

    def embed(self, texts: list[str]) -> Array:
        """[n, hidden_size], of length 1."""
        ids = [encoding.ids for encoding in self._tokenizer().encode_batch_fast(texts)]
        longest_first = np.argsort([-len(i) for i in ids], kind="stable")
        rows = []
        for start in range(0, len(ids), BATCH_SIZE):
            rows.append(self._mean([ids[i] for i in longest_first[start : start + BATCH_SIZE]]))
        vectors = np.empty((len(ids), rows[0].shape[1]), np.float32)
        vectors[longest_first] = np.concatenate(rows)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def _mean(self, batch: list[list[int]]) -> Array:
        lengths = np.array([len(ids) for ids in batch])
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        padded = np.zeros_like(mask)
        padded[mask == 1] = np.concatenate(batch)
        return (self.hidden_states(padded, mask) * mask[..., None]).sum(1) / lengths[:, None]

    def _tokenizer(self) -> Any:
        if not hasattr(self, "_opened"):
            from tokenizers import Tokenizer

            self._opened = Tokenizer.from_file(str(self.tokenizer_file))
            self._opened.enable_truncation(MAX_TOKENS)
            self._opened.no_padding()
        return self._opened


class Qkv(Sentences):
    def __init__(self, checkpoint: Path, *, dtype: str, threads: int) -> None:
        import qkv

        self.model = qkv.load(checkpoint, dtype=dtype, num_threads=threads)
        info = qkv.info()
        self.about = f"qkv {info['version']} {dtype}, {info['isa']}, {threads} threads"

    def hidden_states(self, ids: Array, mask: Array) -> list[Array]:
        return self.model.hidden_states(list(ids))

    def embed(self, texts: list[str]) -> Array:
        return self.model.encode(texts, batch_size=BATCH_SIZE, normalize_embeddings=True, show_progress_bar=False)

    def prefill(self, ids: Array) -> Array:
        return self.model.run("logits", [ids.astype(np.int32)], wanted="last")

    def generate(self, ids: Array, new_tokens: int) -> list[int]:
        tokens = self.model.generate(ids.tolist(), max_new_tokens=new_tokens).token_ids
        _check_lengths([tokens], new_tokens)
        return tokens

    def translate(self, ids: Array, new_tokens: int, beams: int) -> list[list[int]]:
        made = self.model.generate(ids.tolist(), max_new_tokens=new_tokens, min_new_tokens=new_tokens, num_beams=beams)
        texts = [one.token_ids for one in made]
        _check_lengths(texts, new_tokens)
        return texts


class OnnxRuntime(Padded):
    """The fused graph; int8: dynamic quantisation, a scale for each output of a matrix."""

    def __init__(self, checkpoint: Path, *, dtype: str, threads: int) -> None:
        import onnxruntime

        super().__init__(checkpoint / "tokenizer.json")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(files.onnx(checkpoint, dtype), options, ["CPUExecutionProvider"])
        self.about = f"ONNX Runtime {onnxruntime.__version__} {dtype}, {threads} threads"

    def hidden_states(self, ids: Array, mask: Array) -> Array:
        return self.session.run(None, {"ids": ids, "mask": mask})[0]


class OpenVino(Padded):
    def __init__(self, checkpoint: Path, *, dtype: str, threads: int) -> None:
        import openvino

        super().__init__(checkpoint / "tokenizer.json")
        compiled = openvino.Core().compile_model(
            files.onnx(checkpoint, "exported"),
            "CPU",
            {
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
            },
        )
        self.request = compiled.create_infer_request()
        one = np.ones((1, 128), np.int64)
        self.hidden_states(one, one)  # kernels are chosen with the first shapes
        kernels = {op.get_rt_info()["primitiveType"].value for op in compiled.get_runtime_model().get_ops()}
        matrices = sorted(kernel for kernel in kernels if kernel.startswith(("brgemm", "brgconv", "gemm", "jit_gemm")))
        self.about = f"OpenVINO {openvino.__version__} {dtype}, {', '.join(matrices)}, {threads} threads"

    def hidden_states(self, ids: Array, mask: Array) -> Array:
        return self.request.infer({"ids": ids, "mask": mask})[0]


class CTranslate2(Padded):
    """An encoder, a decoder or both, as its checkpoint says. It uses AVX-512 outside of matrix products only if told
    to."""

    def __init__(self, checkpoint: Path, *, dtype: str, threads: int) -> None:
        isa = "AVX512" if "avx512f" in Path("/proc/cpuinfo").read_text() else "AVX2"
        os.environ["CT2_FORCE_CPU_ISA"] = isa
        import ctranslate2

        super().__init__(checkpoint / "tokenizer.json")
        self.library = ctranslate2
        if files.is_encoder(checkpoint):
            kind = ctranslate2.Encoder
        elif files.is_encoder_decoder(checkpoint):
            kind = ctranslate2.Translator
        else:
            kind = ctranslate2.Generator
        self.model = kind(
            str(files.ctranslate2(checkpoint, dtype)), inter_threads=1, intra_threads=threads, compute_type=dtype
        )
        self.about = f"CTranslate2 {ctranslate2.__version__} {dtype}, {isa}, {threads} threads"

    def hidden_states(self, ids: Array, mask: Array) -> Array:
        storage = [self.library.StorageView.from_array(x.astype(np.int32)) for x in (ids, mask.sum(1))]
        return np.array(self.model.forward_batch(storage[0], lengths=storage[1]).last_hidden_state)

    def prefill(self, ids: Array) -> Any:
        return self.generate(ids, 1)  # `forward_batch` would compute every token's logits

    def generate(self, ids: Array, new_tokens: int) -> Any:
        return self.model.generate_batch(
            [_tokens(ids)],
            max_length=new_tokens,
            min_length=new_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
        )

    def translate(self, ids: Array, new_tokens: int, beams: int) -> list[list[str]]:
        made = self.model.translate_batch(
            [_tokens(row) for row in ids],
            beam_size=beams,
            max_decoding_length=new_tokens,
            min_decoding_length=new_tokens,
        )
        texts = [one.hypotheses[0] for one in made]
        _check_lengths(texts, new_tokens)
        return texts


class LlamaCpp:
    """A GGUF of a LLaMA. `generate` is fed with given tokens: nothing is sampled."""

    def __init__(self, checkpoint: Path, *, dtype: str, threads: int) -> None:
        import llama_cpp

        self.model = llama_cpp.Llama(
            str(files.gguf(checkpoint, dtype)),
            n_ctx=1024,
            n_batch=512,
            n_ubatch=512,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )
        system = llama_cpp.llama_print_system_info().decode().replace(" = 1 |", "").strip()
        self.about = f"llama.cpp (llama-cpp-python {llama_cpp.__version__}) {dtype}, {threads} threads; {system}"

    def prefill(self, ids: Array) -> None:
        self.model.reset()
        self.model.eval(ids.tolist())

    def generate(self, ids: Array, new_tokens: int) -> None:
        self.prefill(ids)
        for token in range(100, 100 + new_tokens - 1):
            self.model.eval([token])


def _tokens(ids: Array) -> list[str]:
    """The benchmark models' token of id 7 is "t7"."""
    return [f"t{i}" for i in ids]


def _check_lengths(texts: Sequence[Sequence[Any]], new_tokens: int) -> None:
    for text in texts:
        if len(text) != new_tokens:
            raise RuntimeError(f"a text ended after {len(text)} of {new_tokens} tokens: nothing to compare")
