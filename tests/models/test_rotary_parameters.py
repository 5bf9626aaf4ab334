"""What configs say about rotary positions: frequencies of published checkpoints beside transformers', older spellings,
lengths that decide, and values that are refused."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch
import transformers
from tests.tiny import CASES
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import qkv
from qkv.models import phi3
from qkv.models.llama import Config

PAIRS = 64
LLAMA = {
    "vocab_size": 100, "hidden_size": 256, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 131072,
}  # fmt: skip
GROWING = [1 + 0.5 * i for i in range(PAIRS)]
# as in published files, mostly
TYPES = {
    "linear": {"rope_theta": 1e6, "factor": 8.0},
    "llama3": {
        "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768},
    "yarn-deepseek": {
        "rope_theta": 1e4, "factor": 40.0, "original_max_position_embeddings": 4096, "mscale": 0.707,
        "mscale_all_dim": 1.0, "beta_fast": 32.0, "beta_slow": 1.0,
    },
    "yarn-exact": {"rope_theta": 1.5e5, "factor": 32.0, "original_max_position_embeddings": 4096, "truncate": False},
    "longrope": {
        "rope_theta": 1e4, "short_factor": [1.0] * PAIRS, "long_factor": GROWING,
        "original_max_position_embeddings": 4096,
    },
    "longrope-factor": {
        "rope_theta": 1e4, "short_factor": GROWING, "long_factor": [2.0] * PAIRS, "factor": 16.0,
        "attention_factor": 1.25, "original_max_position_embeddings": 8192,
    },
    "dynamic": {"rope_theta": 1e4, "factor": 2.0},
}  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_frequencies_equal_transformers(name: str) -> None:
    """Within a rounding or two of float32, short and long."""
    kind = name.partition("-")[0]
    config = LLAMA | {"rope_parameters": {"rope_type": kind, **TYPES[name]}}
    rope = Config.from_dict(config).rope(128)
    reference = transformers.LlamaConfig(**config)
    expected, scale = ROPE_INIT_FUNCTIONS[kind](reference, seq_len=1)
    np.testing.assert_allclose(rope.inverse_frequencies, expected, rtol=3e-7)
    assert rope.scale == pytest.approx(scale, rel=1e-12)
    assert (rope.beyond is not None) == (kind in ("longrope", "dynamic"))
    if rope.beyond and kind == "longrope":
        expected, scale = ROPE_INIT_FUNCTIONS[kind](reference, seq_len=rope.beyond.length + 1)
        np.testing.assert_allclose(rope.beyond.inverse_frequencies, expected, rtol=3e-7)
        assert rope.beyond.scale == pytest.approx(scale, rel=1e-12)


YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 100,
}  # fmt: skip
LONGROPE = {"type": "longrope", "short_factor": [1.0 + i for i in range(6)], "long_factor": [2.0 + i for i in range(6)]}
PHI3 = {"rope_theta": 300.0, "partial_rotary_factor": 0.75, "original_max_position_embeddings": 100}
# (case, keys that transformers 5 wrote and older files lack, keys that those have)
OLDER = [
    ("llama", (), {"rope_theta": 300.0}),
    ("llama", (), {"rope_theta": 300.0, "rope_scaling": None}),
    ("llama", (), {"rope_theta": 300.0, "rope_scaling": {"type": "linear", "factor": 4.0}}),
    ("llama", (), {"rope_theta": 300.0, "rope_scaling": {"type": "dynamic", "factor": 4}}),
    ("llama", (), {"rope_theta": 300.0, "rope_scaling": YARN}),
    ("llama", (), {"rope_theta": 300.0, "rope_scaling": YARN, "original_max_position_embeddings": 50}),
    ("llama", (), {"rope_theta": 300.0, "rope_scaling": LLAMA3}),
    ("llama", (), {"rope_theta": 300.0, "rope_scaling": LLAMA3 | {"type": "llama3"}}),
    ("mistral-no-window", (), {"rope_theta": 5000.0, "sliding_window": None}),
    ("qwen2-windows", ("layer_types",), {"rope_theta": 5000.0}),
    ("qwen3-windows", ("layer_types",), {"rope_theta": 5000.0, "rope_scaling": YARN}),
    ("phi3", (), {"rope_theta": 300.0, "partial_rotary_factor": 0.75, "rope_scaling": None}),
    ("phi3", (), PHI3 | {"rope_scaling": LONGROPE}),
    ("phi3", (), PHI3 | {"rope_scaling": LONGROPE | {"type": "su", "original_max_position_embeddings": 100}}),
    ("gemma2", ("layer_types",), {"rope_theta": 300.0}),
    ("gemma3_text", ("layer_types",), {"rope_theta": 3000.0, "sliding_window_pattern": 2}),
    (
        "gemma3_text",
        ("layer_types",),
        {
            "rope_theta": 3000.0,
            "rope_local_base_freq": 100.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "sliding_window_pattern": 2,
        },
    ),
]


@pytest.mark.parametrize(("case", "lacks", "has"), OLDER)
def test_older_spellings(case: str, lacks: tuple[str, ...], has: dict, tiny, tmp_path) -> None:
    folder = shutil.copytree(tiny(case), tmp_path / "older")
    config = json.loads((folder / "config.json").read_text())
    for key in ("rope_parameters", *lacks):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config | has))
    ids = CASES[case].sequences()[-1]
    with torch.no_grad():
        reference = transformers.AutoModelForCausalLM.from_pretrained(folder)(torch.tensor([ids])).logits[0].numpy()
    model = qkv.load(folder)
    assert np.abs(model.logits([ids])[0] - reference).max() <= 1e-4
    assert np.abs(qkv.load(tiny(case)).logits([ids])[0] - reference).max() > 1e-2  # the keys are read


@pytest.mark.parametrize("case", ["llama-dynamic", "llama-longrope", "phi3-longrope"])
@pytest.mark.parametrize("prompt", [60, 90, 120])
def test_planned_length_decides(case: str, prompt: int, tiny) -> None:
    """Text of 30 new tokens, below 100 tokens in all, across them and above: each token is what transformers finds most
    likely in one pass over the whole text."""
    model = qkv.load(tiny(case))
    model.generation_config["eos_token_id"] = []
    ids = CASES[case].sequences()[-1][:prompt]
    made = model.generate(ids, max_new_tokens=30).token_ids
    with torch.no_grad():
        logits = CASES[case].make()(torch.tensor([ids + made])).logits[0].numpy()
    assert logits[prompt - 1 : -1].argmax(1).tolist() == made


def test_context_length(tiny) -> None:
    """Where max_position_embeddings is the length before stretching, the model takes texts of the length after it."""
    lengths = {"llama-linear": 400, "llama-llama3": 400, "llama-dynamic": 250, "llama-yarn": 400, "phi3-longrope": 400}
    assert {case: qkv.load(tiny(case)).context_length for case in lengths} == lengths
    qwen = LLAMA | {
        "max_position_embeddings": 32768,
        "rope_scaling": YARN | {"original_max_position_embeddings": 32768},
    }
    assert Config.from_dict(qwen).context_length == 131072


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rope_type": "mrope", "mrope_section": [1, 2]}, r"type 'mrope'; supported are: default, linear, dynamic"),
        ({"rope_type": 3}, r"type '3'"),
        ({"full_attention": {"rope_theta": 1e4}}, r"rope_parameters for each of full_attention"),
        ({"rope_theta": 1.0}, r"rope_theta of rope_parameters is 1\.0; expected a number above 1"),
        ({"rope_theta": True}, r"rope_theta of rope_parameters is True; expected a number"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor 0\.5; only 1"),
        ({"partial_rotary_factor": 1.5}, r"partial_rotary_factor .* is 1\.5; expected a number above 0 and up to 1"),
        ({"rope_type": "linear"}, r"factor of rope_parameters is missing; expected a number of at least 1"),
        ({"rope_type": "linear", "factor": 0.5}, r"factor of rope_parameters is 0\.5; expected a number of at least 1"),
        ({"rope_type": "linear", "factor": "8"}, r"factor of rope_parameters is '8'; expected a number"),
        ({"rope_type": "linear", "factor": 10**400}, r"factor of rope_parameters is 10+; expected a number"),
        ({"rope_type": "linear", "factor": 1e39}, r"factor of rope_parameters is 1e\+39; expected a number"),
        ({"rope_type": "linear", "factor": float("nan")}, r"factor of rope_parameters is nan; expected a number"),
        ({"rope_type": "dynamic", "factor": float("inf")}, r"factor of rope_parameters is inf; expected a number"),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1.5},
            r"original_max_position_embeddings of rope_parameters is 1\.5; expected an integer from 2",
        ),
        ({"rope_type": "yarn", "factor": 4.0, "beta_fast": 1, "beta_slow": 2}, r"beta_slow 2 must be .* beta_fast 1"),
        ({"rope_type": "yarn", "factor": 4.0, "beta_slow": 1e-307}, r"beta_slow 1e-307 must be .* beta_fast 32"),
        (
            {"rope_type": "yarn", "factor": math.e, "mscale": 1.0, "mscale_all_dim": -10.0},
            r"mscale_all_dim .* is -10\.0; expected a number of at least 0",
        ),
        ({"rope_type": "yarn", "factor": 4.0, "truncate": "no"}, r"truncate .* is 'no'; expected true or false"),
        ({"rope_type": "yarn", "factor": 4.0, "attention_factor": -1}, r"attention_factor .* is -1; expected a number"),
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0},
            r"low_freq_factor 4 must be above 0 and below high_freq_factor",
        ),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}, r"high_freq_factor .* is missing"),
        ({"rope_type": "longrope"}, r"short_factor of rope_parameters is missing; expected a list of 64 positive"),
        (
            {"rope_type": "longrope", "short_factor": [1.0] * 64, "long_factor": [1.0] * 63},
            r"long_factor .*; expected a list of 64 positive numbers",
        ),
        (
            {"rope_type": "longrope", "short_factor": [0.0] * 64, "long_factor": [1.0] * 64},
            r"short_factor .*; expected a list of 64 positive numbers",
        ),
        (
            {"rope_type": "longrope", "short_factor": [1.0] * 64, "long_factor": [1e-300] * 64},
            r"rope_parameters of type 'longrope' makes frequencies that are not finite",
        ),
    ],
)
def test_refused(parameters: dict, message: str) -> None:
    config = Config.from_dict(LLAMA | {"rope_parameters": parameters}, "here/config.json")
    with pytest.raises(qkv.Error, match=r"here/config\.json: .*" + message) as caught:
        config.rope(128)
    assert len(str(caught.value)) < 250


def test_refused_with_the_heads() -> None:
    with pytest.raises(qkv.Error, match="would turn 7 of 7 values of a head: it must be an even number"):
        Config.from_dict(LLAMA).rope(7)
    with pytest.raises(qkv.Error, match="heads with 16777216 values; at most 65536"):
        Config.from_dict(LLAMA).rope(2**24)
    with pytest.raises(qkv.Error, match="more than one pair"):
        Config.from_dict(LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 2.0}}).rope(2)
    with pytest.raises(qkv.Error, match="would turn 9 of 12 values"):
        phi3.Config.from_dict(LLAMA | {"partial_rotary_factor": 0.75}).rope(12, partial=True)
