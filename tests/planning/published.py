"""What config.json of published checkpoints says about sizes, and how many parameters the class in `architectures` has,
without a pooler, and a tied output layer once. The tests have transformers count them again."""

from __future__ import annotations

from typing import Any

_GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 50257, "n_positions": 1024}
_BERT = {
    "model_type": "bert", "architectures": ["BertForMaskedLM"], "vocab_size": 30522, "max_position_embeddings": 512,
    "type_vocab_size": 2, "hidden_act": "gelu",
}  # fmt: skip
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_ROBERTA = {
    "model_type": "roberta", "architectures": ["RobertaForMaskedLM"], "vocab_size": 50265,
    "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1,
    "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
_ALBERT = {
    "model_type": "albert", "architectures": ["AlbertForMaskedLM"], "vocab_size": 30000, "embedding_size": 128,
    "num_hidden_groups": 1, "inner_group_num": 1, "max_position_embeddings": 512, "type_vocab_size": 2,
}  # fmt: skip
_GPT_NEO = {
    "model_type": "gpt_neo", "architectures": ["GPTNeoForCausalLM"], "vocab_size": 50257, "intermediate_size": None,
    "max_position_embeddings": 2048, "window_size": 256, "activation_function": "gelu_new",
}  # fmt: skip
_GPT_NEOX = {
    "model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"], "max_position_embeddings": 2048,
    "rotary_pct": 0.25, "rotary_emb_base": 10000, "use_parallel_residual": True, "tie_word_embeddings": False,
}  # fmt: skip
_LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_act": "silu",
    "max_position_embeddings": 2048, "tie_word_embeddings": False,
}  # fmt: skip
_MISTRAL_SIZES = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "tie_word_embeddings": False,
}  # fmt: skip
_QWEN3 = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": 151936, "head_dim": 128,
    "max_position_embeddings": 40960, "attention_bias": False, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "rope_theta": 1000000, "sliding_window": None, "use_sliding_window": False,
}  # fmt: skip
_GEMMA2 = {
    "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "vocab_size": 256000, "head_dim": 256,
    "max_position_embeddings": 8192, "query_pre_attn_scalar": 256, "sliding_window": 4096,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh",
}  # fmt: skip
_FALCON = {
    "model_type": "falcon", "architectures": ["FalconForCausalLM"], "vocab_size": 65024, "parallel_attn": True,
    "bias": False, "alibi": False, "layer_norm_epsilon": 1e-5,
}  # fmt: skip
_T5 = {
    "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "vocab_size": 32128, "d_kv": 64,
    "relative_attention_num_buckets": 32, "is_encoder_decoder": True, "n_positions": 512, "layer_norm_epsilon": 1e-6,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_BART = {
    "model_type": "bart", "architectures": ["BartForConditionalGeneration"], "max_position_embeddings": 1024,
    "activation_function": "gelu", "scale_embedding": False, "is_encoder_decoder": True, "decoder_start_token_id": 2,
    "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def _seq2seq(d_model: int, layers: int, heads: int, ffn: int) -> dict[str, Any]:
    sides = ("encoder", "decoder")
    sizes = {f"{side}_{what}": n for side in sides for what, n in (("layers", layers), ("ffn_dim", ffn))}
    return {"d_model": d_model, **sizes, **{f"{side}_attention_heads": heads for side in sides}}


PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    "openai-community/gpt2": (124_439_808, _GPT2 | {"n_embd": 768, "n_layer": 12, "n_head": 12}),
    "openai-community/gpt2-medium": (354_823_168, _GPT2 | {"n_embd": 1024, "n_layer": 24, "n_head": 16}),
    "openai-community/gpt2-large": (774_030_080, _GPT2 | {"n_embd": 1280, "n_layer": 36, "n_head": 20}),
    "openai-community/gpt2-xl": (1_557_611_200, _GPT2 | {"n_embd": 1600, "n_layer": 48, "n_head": 25}),
    # not published; Brown et al. 2020, table 2.1
    "GPT-3 175B": (174_604_259_328, _GPT2 | {"n_embd": 12288, "n_layer": 96, "n_head": 96, "n_positions": 2048}),
    "google-bert/bert-base-uncased": (109_514_298, _BERT | _BASE),
    "google-bert/bert-large-uncased": (335_174_458, _BERT | _LARGE),
    "FacebookAI/roberta-base": (124_697_433, _ROBERTA | _BASE),
    "FacebookAI/roberta-large": (355_412_057, _ROBERTA | _LARGE),
    "FacebookAI/xlm-roberta-base": (
        278_295_186,
        _ROBERTA | _BASE
        | {"model_type": "xlm-roberta", "architectures": ["XLMRobertaForMaskedLM"], "vocab_size": 250002},
    ),
    "almanach/camembert-base": (
        110_655_493,
        _ROBERTA | _BASE
        | {"model_type": "camembert", "architectures": ["CamembertForMaskedLM"], "vocab_size": 32005},
    ),
    "albert/albert-base-v2": (11_221_680, _ALBERT | _BASE | {"hidden_act": "gelu_new"}),
    "albert/albert-xxlarge-v2": (
        206_368_944,
        _ALBERT
        | {
            "hidden_size": 4096, "num_hidden_layers": 12, "num_attention_heads": 64, "intermediate_size": 16384,
            "hidden_act": "gelu",
        },
    ),
    "distilbert/distilbert-base-uncased": (
        66_985_530,
        {
            "model_type": "distilbert", "architectures": ["DistilBertForMaskedLM"], "vocab_size": 30522, "dim": 768,
            "hidden_dim": 3072, "n_heads": 12, "n_layers": 6, "max_position_embeddings": 512, "activation": "gelu",
            "sinusoidal_pos_embds": False,
        },
    ),
    "EleutherAI/gpt-neo-1.3B": (
        1_315_575_808,
        _GPT_NEO
        | {"hidden_size": 2048, "num_layers": 24, "num_heads": 16, "attention_types": [[["global", "local"], 12]]},
    ),
    "EleutherAI/gpt-neo-2.7B": (
        2_651_307_520,
        _GPT_NEO
        | {"hidden_size": 2560, "num_layers": 32, "num_heads": 20, "attention_types": [[["global", "local"], 16]]},
    ),
    "EleutherAI/gpt-j-6b": (
        6_050_882_784,
        {
            "model_type": "gptj", "architectures": ["GPTJForCausalLM"], "vocab_size": 50400, "n_embd": 4096,
            "n_layer": 28, "n_head": 16, "n_positions": 2048, "rotary_dim": 64, "n_inner": None,
            "tie_word_embeddings": False, "activation_function": "gelu_new",
        },
    ),
    "EleutherAI/pythia-160m": (162_322_944, _GPT_NEOX | _BASE | {"vocab_size": 50304, "hidden_act": "gelu"}),
    "EleutherAI/gpt-neox-20b": (
        20_554_567_680,
        _GPT_NEOX
        | {
            "vocab_size": 50432, "hidden_size": 6144, "num_hidden_layers": 44, "num_attention_heads": 64,
            "intermediate_size": 24576, "hidden_act": "gelu_fast",
        },
    ),
    "huggyllama/llama-7b": (
        6_738_415_616,
        _LLAMA
        | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32},
    ),
    "huggyllama/llama-65b": (
        65_285_660_672,
        _LLAMA
        | {"hidden_size": 8192, "intermediate_size": 22016, "num_hidden_layers": 80, "num_attention_heads": 64},
    ),
    "meta-llama/Llama-2-70b-hf": (
        68_976_648_192,
        _LLAMA
        | {
            "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64,
            "num_key_value_heads": 8, "max_position_embeddings": 4096,
        },
    ),
    "meta-llama/Meta-Llama-3-8B": (
        8_030_261_248,
        _LLAMA
        | {
            "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
            "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
            "rope_theta": 500000.0,
        },
    ),
    "mistralai/Mistral-7B-v0.1": (
        7_241_732_096,
        _MISTRAL_SIZES | {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4096},
    ),
    "mistralai/Mixtral-8x7B-v0.1": (
        46_702_792_704,
        _MISTRAL_SIZES
        | {
            "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 8,
            "num_experts_per_tok": 2, "rope_theta": 1000000.0, "sliding_window": None,
        },
    ),
    "Qwen/Qwen2-7B": (
        7_615_616_512,
        {
            "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 152064, "hidden_size": 3584,
            "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "hidden_act": "silu",
            "sliding_window": 131072, "use_sliding_window": False, "max_window_layers": 28,
            "tie_word_embeddings": False,
        },
    ),
    "Qwen/Qwen3-0.6B": (
        596_049_920,
        _QWEN3
        | {
            "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
            "num_key_value_heads": 8, "tie_word_embeddings": True, "max_window_layers": 28,
        },
    ),
    "Qwen/Qwen3-8B": (
        8_190_735_360,
        _QWEN3
        | {
            "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
            "num_key_value_heads": 8, "tie_word_embeddings": False, "max_window_layers": 36,
        },
    ),
    "google/gemma-2-2b": (
        2_614_341_888,
        _GEMMA2
        | {
            "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
            "num_key_value_heads": 4,
        },
    ),
    "google/gemma-2-9b": (
        9_241_705_984,
        _GEMMA2
        | {
            "hidden_size": 3584, "intermediate_size": 14336, "num_hidden_layers": 42, "num_attention_heads": 16,
            "num_key_value_heads": 8,
        },
    ),
    "google/gemma-3-1b-pt": (
        999_885_952,
        {
            "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], "vocab_size": 262144,
            "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26, "num_attention_heads": 4,
            "num_key_value_heads": 1, "head_dim": 256, "max_position_embeddings": 32768, "sliding_window": 512,
            "sliding_window_pattern": 6, "query_pre_attn_scalar": 256, "rope_theta": 1000000,
            "rope_local_base_freq": 10000, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6,
        },
    ),
    "bigcode/starcoder2-3b": (
        3_030_371_328,
        {
            "model_type": "starcoder2", "architectures": ["Starcoder2ForCausalLM"], "vocab_size": 49152,
            "hidden_size": 3072, "intermediate_size": 12288, "num_hidden_layers": 30, "num_attention_heads": 24,
            "num_key_value_heads": 2, "max_position_embeddings": 16384, "sliding_window": 4096,
            "hidden_act": "gelu_pytorch_tanh", "norm_epsilon": 1e-5, "rope_theta": 999999.4, "use_bias": True,
            "bos_token_id": 0, "eos_token_id": 0,
        },
    ),
    "microsoft/Phi-3-mini-4k-instruct": (
        3_821_079_552,
        {
            "model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "vocab_size": 32064, "hidden_size": 3072,
            "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
            "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rope_scaling": None,
            "rope_theta": 10000.0, "sliding_window": 2047, "rms_norm_eps": 1e-5, "hidden_act": "silu",
            "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000,
        },
    ),
    "tiiuae/falcon-7b": (
        6_921_720_704,
        _FALCON
        | {
            "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "multi_query": True,
            "new_decoder_architecture": False,
        },
    ),
    "tiiuae/falcon-40b": (
        41_303_293_952,
        _FALCON
        | {
            "hidden_size": 8192, "num_hidden_layers": 60, "num_attention_heads": 128, "num_kv_heads": 8,
            "new_decoder_architecture": True,
        },
    ),
    "tiiuae/falcon-rw-1b": (
        1_311_625_216,
        _FALCON
        | {
            "vocab_size": 50304, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 32,
            "multi_query": False, "new_decoder_architecture": False, "alibi": True, "bias": True,
            "parallel_attn": False,
        },
    ),
    "bigscience/bloom-560m": (
        559_214_592,
        {
            "model_type": "bloom", "architectures": ["BloomForCausalLM"], "vocab_size": 250880, "hidden_size": 1024,
            "n_layer": 24, "n_head": 16,
        },
    ),
    "bigscience/bloom": (
        176_247_271_424,
        {
            "model_type": "bloom", "architectures": ["BloomForCausalLM"], "vocab_size": 250880, "n_embed": 14336,
            "n_layer": 70, "num_attention_heads": 112,
        },
    ),
    "google-t5/t5-small": (60_506_624, _T5 | {"d_model": 512, "d_ff": 2048, "num_layers": 6, "num_heads": 8}),
    "google-t5/t5-base": (222_903_552, _T5 | {"d_model": 768, "d_ff": 3072, "num_layers": 12, "num_heads": 12}),
    "google-t5/t5-11b": (
        11_307_321_344,
        _T5 | {"d_model": 1024, "d_ff": 65536, "num_layers": 24, "num_heads": 128, "d_kv": 128},
    ),
    "google/flan-t5-base": (
        247_577_856,
        _T5
        | {
            "d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12, "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
        },
    ),
    "facebook/bart-base": (139_420_416, _BART | _seq2seq(768, 6, 12, 3072) | {"vocab_size": 50265}),
    "facebook/bart-large": (406_291_456, _BART | _seq2seq(1024, 12, 16, 4096) | {"vocab_size": 50265}),
    "facebook/mbart-large-50": (
        610_879_488,
        _BART | _seq2seq(1024, 12, 16, 4096)
        | {
            "model_type": "mbart", "architectures": ["MBartForConditionalGeneration"], "vocab_size": 250054,
            "scale_embedding": True, "activation_function": "gelu",
        },
    ),
    "Helsinki-NLP/opus-mt-en-de": (
        74_410_496,
        _BART | _seq2seq(512, 6, 8, 2048)
        | {
            "model_type": "marian", "architectures": ["MarianMTModel"], "vocab_size": 58101,
            "max_position_embeddings": 512, "activation_function": "swish", "scale_embedding": True,
            "static_position_embeddings": True, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 58100,
            "decoder_start_token_id": 58100,
        },
    ),
}  # fmt: skip
