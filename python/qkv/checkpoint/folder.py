"""Files of a checkpoint folder: names that stay inside it, and JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from qkv.errors import CheckpointError

CONVERT_HINT = """\
Pickle files are not read, because they can run code. If you trust them, convert them once with transformers:
    from transformers import AutoModel, AutoTokenizer  # or AutoModelForCausalLM, ...
    AutoModel.from_pretrained(SOURCE).save_pretrained(TARGET, safe_serialization=True)
    AutoTokenizer.from_pretrained(SOURCE).save_pretrained(TARGET)"""


def find_file(folder: Path, name: str, source: str | None = None) -> Path | None:
    """The file `name` of a checkpoint folder, or None when there is none.

    Args:
        folder: the checkpoint folder.
        name: a relative name with forward slashes, such as ``1_Pooling/config.json``.
        source: the file that mentions `name`, for the error message.

    Raises:
        CheckpointError: the name or a symbolic link leads out of the folder, or it is not a regular file.
            Links into the ``blobs`` folder of the same repository in the hub's cache are fine.
    """
    what = f"{folder / source}: the entry {name!r}" if source else str(folder / name)
    if any(part in ("", ".", "..") for part in name.split("/")) or any(c in name for c in "\\:\0"):
        raise CheckpointError(f"{what} is not the name of a file inside the checkpoint folder")
    path = folder / name
    if not os.path.lexists(path):
        return None
    if not _stays_inside(folder, path):
        raise CheckpointError(
            f"{what} is a link to {os.path.realpath(path)}, outside the checkpoint folder; copy it instead"
        )
    if not os.path.isfile(path):  # noqa: PTH113 (never raises, as Path.is_file does)
        raise CheckpointError(f"{what} is a folder, a broken link or a special file; expected a regular file")
    return path


def _stays_inside(folder: Path, path: Path) -> bool:
    root, target = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    if target.is_relative_to(root):
        return True
    # The hub's cache keeps contents in models--OWNER--NAME/blobs and links to them from snapshots/REVISION.
    repository = root.parent.parent
    in_hub_cache = root.parent.name == "snapshots" and repository.name.startswith("models--")
    return in_hub_cache and target.parent == repository / "blobs"


def read_file(folder: Path, name: str) -> bytes | None:
    """The contents of the file `name` of a checkpoint folder, or None when there is none.

    Raises:
        CheckpointError: the file cannot be read, or leads out of the folder.
    """
    path = find_file(folder, name)
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def parse_json(data: bytes, where: Path) -> Any:
    """The value that `data` holds; `where` is the file, for the message.

    Raises:
        CheckpointError: it is not JSON.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not valid JSON: {error}") from error


def parse_object(data: bytes, where: Path) -> dict[str, Any]:
    """As :func:`parse_json`, for files whose top level must be an object."""
    value = parse_json(data, where)
    if isinstance(value, dict):
        return value
    raise CheckpointError(f"{where} holds {_kind(value)} at its top level; expected an object")


def decode_text(data: bytes, where: Path) -> str:
    """The text that `data` holds in UTF-8; `where` is the file, for the message.

    Raises:
        CheckpointError: it is not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{where} is not UTF-8 text: {error}") from error


def _kind(value: object) -> str:
    return {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
