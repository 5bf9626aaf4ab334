"""From what a user types to a local folder: a path, or an id on the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from qkv.checkpoint.folder import CONVERT_HINT, find_file
from qkv.errors import CheckpointError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")

# `*` also matches "/", so that *.json brings 1_Pooling/config.json along.
_WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.spm"]
# The same weights again, in other formats or layouts.
_UNWANTED = ["*/*.safetensors", "consolidated*", "onnx/*", "openvino/*", "original/*"]


def locate(
    path_or_id: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder of a checkpoint: a local folder as it is, or a hub repository, downloaded or from the cache.

    Args:
        path_or_id: a folder, or (only as a string) a hub id such as ``owner/name``. An existing folder wins.
        revision: branch, tag or commit on the hub; the other arguments, too, only concern the hub.
        token: access token; None uses the one that ``hf auth login`` stored.
        cache_dir: where downloads are kept; None means the hub's own cache.
        local_files_only: use the cache and never the network. ``HF_HUB_OFFLINE=1`` does the same.

    Raises:
        CheckpointError: no such folder or repository or revision, no access to it, it is not in the cache and
            the hub cannot be reached, or it has no safetensors weights.
    """
    folder = _local_folder(path_or_id)
    if folder:
        return folder
    folder = _download(str(path_or_id), _WANTED, revision, token, cache_dir, local_files_only)
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{path_or_id!r} on the hub has no safetensors file. {CONVERT_HINT}")
    return folder


def locate_config(
    path_or_id: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The config.json of a checkpoint, of which nothing else is needed or downloaded; arguments as in `locate`.

    A JSON file is taken as it is.

    Raises:
        CheckpointError: as `locate`, or there is no configuration in the folder or repository.
    """
    path = os.path.expanduser(path_or_id)  # noqa: PTH111 (as in _local_folder)
    if os.path.isfile(path):  # noqa: PTH113
        if Path(path).suffix == ".json":
            return Path(path).resolve()
        raise CheckpointError(
            f"{str(path_or_id)!r} is not a configuration; expected a config.json, "
            "the checkpoint folder that it lies in, or a hub id"
        )
    folder = _local_folder(path_or_id) or _download(
        str(path_or_id), ["config.json"], revision, token, cache_dir, local_files_only
    )
    if file := find_file(folder, "config.json"):
        return file
    raise CheckpointError(f"{folder} has no config.json; expected a Hugging Face checkpoint folder")


def _local_folder(path_or_id: str | Path) -> Path | None:
    """The folder, or None for what can only be a hub id.

    Raises:
        CheckpointError: it is neither.
    """
    # os.path, because it does not raise on names that no file can have.
    path = os.path.expanduser(path_or_id)  # noqa: PTH111
    if os.path.isdir(path):  # noqa: PTH112
        return Path(path).resolve()
    if not isinstance(path_or_id, str) or not _ID.fullmatch(path_or_id) or os.path.lexists(path):
        problem = "is not a folder" if os.path.lexists(path) else "does not exist"
        raise CheckpointError(f"{str(path_or_id)!r} {problem}; expected a checkpoint folder or a hub id")
    return None


def _download(
    repo: str,
    wanted: list[str],
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | Path | None,
    local_files_only: bool,
) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(
            repo,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            allow_patterns=wanted,
            ignore_patterns=_UNWANTED,
        )
    except Exception as error:  # the hub's HTTP client, and so what it raises, differs between its versions
        reasons = {
            errors.HFValidationError: f"is neither a folder nor a valid hub id: {error}",
            errors.GatedRepoError: "is gated: accept its terms on its hub page, then log in or pass token=",
            errors.RepositoryNotFoundError: "is neither a folder nor a public repository; "
            "for a private one log in or pass token=",
            errors.RevisionNotFoundError: f"has no revision {revision!r}",
            errors.LocalEntryNotFoundError: "is no folder and not completely in the local cache, "
            "and the hub is switched off or was not reached",
        }
        other = f"could not be downloaded: {type(error).__name__}: {error}"
        reason = next((text for kind, text in reasons.items() if isinstance(error, kind)), other)
        raise CheckpointError(f"{repo!r} {reason}") from error
    return Path(folder)
