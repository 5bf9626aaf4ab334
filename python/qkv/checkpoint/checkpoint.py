"""An opened checkpoint folder: its configuration and its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from qkv.checkpoint.folder import CONVERT_HINT, find_file, parse_json, parse_object, read_file
from qkv.checkpoint.quantised import refuse_quantised_config, refuse_quantised_tensors
from qkv.checkpoint.tensors import Shard, TensorInfo
from qkv.errors import CheckpointError

if TYPE_CHECKING:
    from typing_extensions import Self

INDEX = "model.safetensors.index.json"

_OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".gguf", ".onnx")


class Checkpoint:
    """An opened Hugging Face checkpoint folder, made with :meth:`open`. Close it, or use it in a ``with``.

    Attributes:
        path: the folder.
        config: ``config.json``, parsed.
        tensors: where each tensor lies, by name.
        names: the names of all tensors, sorted.
        files: what :meth:`file` was asked for so far, and found.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[str, bytes | None] = {}
        self._used: set[str] = set()
        self._shards: list[Shard] = []
        self._owner: dict[str, Shard] = {}
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType({})
        config = self.json("config.json")
        if config is None:
            raise CheckpointError(f"{path} has no config.json; expected a Hugging Face checkpoint folder")
        self.config = config

    @classmethod
    def open(cls, folder: str | Path) -> Checkpoint:
        """Check and map a checkpoint folder; no tensor is read yet.

        The weights are ``model.safetensors``, or the shards that ``model.safetensors.index.json`` lists, or
        the only other ``.safetensors`` file.

        Raises:
            CheckpointError: a file is missing, broken or leads out of the folder; the weights are quantised;
                or there are only pickle files.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is not a folder; expected a Hugging Face checkpoint folder")
        checkpoint = cls(folder)
        refuse_quantised_config(checkpoint.config, folder / "config.json")
        try:
            owner = _open_shards(folder, checkpoint._shards)
            tensors = {name: shard.tensors[name] for name, shard in owner.items()}
            refuse_quantised_tensors(tensors)
        except CheckpointError:
            checkpoint.close()
            raise
        checkpoint._owner = owner
        checkpoint.tensors = MappingProxyType(tensors)
        return checkpoint

    @cached_property
    def names(self) -> list[str]:
        return sorted(self.tensors)

    @property
    def used(self) -> set[str]:
        """The names of tensors that :meth:`Weights.param` gave out so far."""
        return self._used

    def read(self, name: str) -> np.ndarray:
        """A tensor as a read-only array that looks at the mapped file; nothing is copied.

        (Only where the file places a tensor at an odd address is it copied, so that the array is aligned.)

        Returns:
            float32, float16, or for bfloat16 a uint16 array of its raw bits; valid even after :meth:`close`.

        Raises:
            CheckpointError: there is no such tensor, it has another type or no elements, or the checkpoint is
                closed.
        """
        return self._shard(name).read(self.tensors[name])

    def raw(self, name: str) -> np.ndarray:
        """The bytes of a tensor of any type and size: uint8, read-only, mapped.

        Raises:
            CheckpointError: there is no such tensor, or the checkpoint is closed.
        """
        return self._shard(name).raw(self.tensors[name])

    def release(self, name: str) -> None:
        """Give the memory of a tensor's pages back; a later read fetches them from the file again.

        Raises:
            CheckpointError: there is no such tensor, or the checkpoint is closed.
        """
        self._shard(name).release(self.tensors[name])

    def file(self, name: str) -> bytes | None:
        """The contents of a file beside the weights, e.g. ``tokenizer.json``; None when there is no such file.

        Raises:
            CheckpointError: the file cannot be read, or leads out of the folder.
        """
        if name not in self.files:
            self.files[name] = read_file(self.path, name)
        return self.files[name]

    def json(self, name: str) -> dict[str, Any] | None:
        """A JSON object beside the weights, e.g. ``generation_config.json``; None when there is no such file.

        Raises:
            CheckpointError: the file is not JSON or no object, cannot be read, or leads out of the folder.
        """
        data = self.file(name)
        return None if data is None else parse_object(data, self.path / name)

    def json_value(self, name: str) -> Any:
        """As :meth:`json`, for files whose top level may be anything."""
        data = self.file(name)
        return None if data is None else parse_json(data, self.path / name)

    def close(self) -> None:
        """Unmap the files. Arrays that were read stay valid, and keep their file mapped while they live."""
        _close(self._shards)
        self._owner = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.path)!r}, {len(self.tensors)} tensors)"

    def _shard(self, name: str) -> Shard:
        if name not in self.tensors:
            raise CheckpointError(f"{self.path} has no tensor {name!r}")
        if name not in self._owner:
            raise CheckpointError(f"{self.path} is closed; tensor {name!r} can no longer be read")
        return self._owner[name]


def _open_shards(folder: Path, shards: list[Shard]) -> dict[str, Shard]:
    """Open the weights, append each file to `shards`, and say which of them holds which tensor."""
    if single := find_file(folder, "model.safetensors"):
        return _open_single(single, shards)
    data = read_file(folder, INDEX)
    index = None if data is None else parse_object(data, folder / INDEX)
    if index is not None:
        return _open_index(folder, index, shards)
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(others) == 1 and (single := find_file(folder, others[0])):
        return _open_single(single, shards)
    if others:
        raise CheckpointError(
            f"{folder} has several safetensors files ({', '.join(others[:4])}, ...) but neither "
            f"model.safetensors nor {INDEX}, which would say how they belong together"
        )
    raise CheckpointError(_no_weights(folder))


def _open_single(path: Path, shards: list[Shard]) -> dict[str, Shard]:
    shard = Shard(path)
    shards.append(shard)
    return dict.fromkeys(shard.tensors, shard)


def _open_index(folder: Path, index: dict[str, Any], shards: list[Shard]) -> dict[str, Shard]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{folder / INDEX}: expected a weight_map from tensor names to file names")
    opened: dict[str, Shard] = {}
    for file in sorted(set(weight_map.values())):
        if "/" in file:
            raise CheckpointError(f"{folder / INDEX}: the entry {file!r} is not a plain file name")
        path = find_file(folder, file, source=INDEX)
        if path is None:
            raise CheckpointError(f"{folder / INDEX} lists {file!r}, which is missing; download it again")
        opened[file] = Shard(path)
        shards.append(opened[file])
    owner = {name: opened[file] for name, file in weight_map.items()}
    for name, shard in owner.items():
        if name not in shard.tensors:
            raise CheckpointError(f"{folder / INDEX} places tensor {name!r} in {shard.path.name}, which lacks it")
    return owner


def _no_weights(folder: Path) -> str:
    found = sorted(path.name for path in folder.iterdir() if path.suffix in _OTHER_WEIGHTS)
    if not found:
        return f"{folder} has no weights: expected model.safetensors or {INDEX}"
    return f"{folder} has no safetensors file, only {', '.join(found[:4])}. {CONVERT_HINT}"


def _close(shards: list[Shard]) -> None:
    while shards:
        shards.pop().close()
