"""How a sentence-transformers checkpoint turns token vectors into one vector: modules.json and others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from qkv.checkpoint.checkpoint import Checkpoint
from qkv.checkpoint.config import LIMIT, Config
from qkv.errors import CheckpointError, UnsupportedArchitecture

Pooling: TypeAlias = Literal["mean", "cls", "max", "lasttoken"]

_MODULES = ["Transformer", "Pooling", "Normalize"]

_SUPPORTED = ("mean", "cls", "max", "lasttoken")

# Up to version 5, sentence-transformers wrote one boolean per mode; since then a single `pooling_mode`.
_BOOLEANS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

# The transformer's settings are in sentence_bert_config.json; early versions named the file after the model.
_TRANSFORMER_KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")


@dataclass(frozen=True)
class SentenceModules:
    """What follows the transformer in a sentence-transformers checkpoint.

    Attributes:
        pooling: which token vectors make the sentence vector.
        normalize: whether it is scaled to unit length.
        max_seq_length: tokens after which text is cut, special tokens included; None when not given.
        do_lower_case: whether text is lower-cased before the tokenizer sees it.
    """

    pooling: Pooling = "mean"
    normalize: bool = False
    max_seq_length: int | None = None
    do_lower_case: bool = False


@dataclass
class _Transformer(Config):
    max_seq_length: int | None = None
    do_lower_case: bool = False


@dataclass
class _Pooling(Config):
    pooling_mode: str | list[str] | None = None
    include_prompt: bool = True
    pooling_mode_cls_token: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False

    def modes(self) -> list[str]:
        if self.pooling_mode is not None:
            return [self.pooling_mode] if isinstance(self.pooling_mode, str) else self.pooling_mode
        return [mode for key, mode in _BOOLEANS.items() if getattr(self, key)] or ["mean"]


@dataclass
class _Normalize(Config):
    module_input_name: str = "sentence_embedding"


def sentence_modules(checkpoint: Checkpoint) -> SentenceModules:
    """Read ``modules.json`` and the files it leads to; without it, as sentence-transformers: mean pooling.

    Raises:
        CheckpointError: a file is broken, missing or outside the checkpoint folder.
        UnsupportedArchitecture: the modules are not Transformer, Pooling and perhaps Normalize, or the
            pooling is a mode or a mixture that this package does not implement.
    """
    paths = _module_paths(checkpoint)
    transformer = _transformer(checkpoint)
    length = transformer.max_seq_length or _model_max_length(checkpoint)
    pooling: Pooling = "mean"
    if "Pooling" in paths:
        pooling = _pooling(checkpoint, f"{paths['Pooling']}/config.json")
    if "Normalize" in paths:
        _check_normalize(checkpoint, f"{paths['Normalize']}/config.json")
    return SentenceModules(pooling, "Normalize" in paths, length, transformer.do_lower_case)


def _module_paths(checkpoint: Checkpoint) -> dict[str, str]:
    """The folder of each module by its class name, in order; empty without modules.json."""
    where = checkpoint.path / "modules.json"
    modules = checkpoint.json_value(where.name)
    if modules is None:
        return {}
    if not isinstance(modules, list) or not all(_is_module(module) for module in modules):
        raise CheckpointError(f"{where}: expected a list of objects with the strings 'type' and 'path'")
    for module in modules:
        package, _, kind = module["type"].rpartition(".")
        if package.split(".")[0] != "sentence_transformers" or kind not in _MODULES:
            raise UnsupportedArchitecture(
                f"{where}: the module {module['type']!r} is not supported; only sentence-transformers' own "
                "Transformer, Pooling and Normalize are"
            )
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds not in (_MODULES[:2], _MODULES):
        raise UnsupportedArchitecture(
            f"{where}: the modules {', '.join(kinds) or '(none)'} are not supported in this order; "
            "expected Transformer, Pooling and perhaps Normalize"
        )
    if modules[0]["path"]:
        raise UnsupportedArchitecture(
            f"{where}: the transformer lies in the folder {modules[0]['path']!r}; "
            "save the model again with a current sentence-transformers"
        )
    return {kind: module["path"] for kind, module in zip(kinds, modules, strict=True)}


def _is_module(module: object) -> bool:
    return isinstance(module, dict) and all(isinstance(module.get(key), str) for key in ("type", "path"))


def _transformer(checkpoint: Checkpoint) -> _Transformer:
    for kind in _TRANSFORMER_KINDS:
        name = f"sentence_{kind}_config.json"
        if raw := checkpoint.json(name):
            return _Transformer.from_dict(raw, str(checkpoint.path / name))
    return _Transformer()


def _pooling(checkpoint: Checkpoint, name: str) -> Pooling:
    where = str(checkpoint.path / name)
    raw = checkpoint.json(name)
    if raw is None:
        raise CheckpointError(f"{where} is missing; modules.json says that it describes the pooling")
    config = _Pooling.from_dict(raw, where)
    modes = config.modes()
    if len(modes) != 1 or modes[0] not in _SUPPORTED:
        raise UnsupportedArchitecture(
            f"{where}: pooling by {' + '.join(modes)} is not supported; only {', '.join(_SUPPORTED)}"
        )
    if not config.include_prompt:
        raise UnsupportedArchitecture(f"{where}: include_prompt false is not supported")
    return cast(Pooling, modes[0])


def _check_normalize(checkpoint: Checkpoint, name: str) -> None:
    where = str(checkpoint.path / name)
    target = _Normalize.from_dict(checkpoint.json(name) or {}, where).module_input_name
    if target != "sentence_embedding":
        raise UnsupportedArchitecture(f"{where}: normalising {target!r} is not supported")


def _model_max_length(checkpoint: Checkpoint) -> int | None:
    # sentence-transformers 6 writes no max_seq_length, but relies on the tokenizer's limit; where there is
    # none, transformers writes 10**30.
    length: Any = (checkpoint.json("tokenizer_config.json") or {}).get("model_max_length")
    return length if type(length) is int and 0 < length <= LIMIT else None
