"""locate: local folders and the hub's cache, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants, errors

from qkv.checkpoint import Checkpoint, locate
from qkv.checkpoint.hub import locate_config
from qkv.errors import CheckpointError

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(single: Path, tmp_path: Path) -> Path:
    """The hub's cache, laid out by hand, holding owner/tiny."""
    cache = tmp_path / "hub"
    repository = cache / "models--owner--tiny"
    snapshot, blobs = repository / "snapshots" / REVISION, repository / "blobs"
    for made in (snapshot / "1_Pooling", blobs, repository / "refs"):
        made.mkdir(parents=True)
    (repository / "refs" / "main").write_text(REVISION)
    for i, name in enumerate(["config.json", "model.safetensors"]):
        (single / name).rename(blobs / f"{i:064x}")
        (snapshot / name).symlink_to(f"../../blobs/{i:064x}")
    (blobs / "pool").write_text('{"pooling_mode": "cls"}')
    (snapshot / "1_Pooling" / "config.json").symlink_to("../../../blobs/pool")
    return cache


def test_a_folder_is_returned_resolved(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (single.parent / "link").symlink_to(single)
    monkeypatch.setenv("HOME", str(single.parent))
    monkeypatch.chdir(single.parent)
    expected = single.resolve()
    for name in (single, str(single), "checkpoint", "./checkpoint", "~/checkpoint", "link", Path("link")):
        assert locate(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "./gone",
        "/gone",
        "~/gone",
        "~nobody-here/gone",
        "../gone",
        "a/b/c",
        "",
        "a\0b",
        "x" * 5000 + "/",
        "a b",
    ],
)
def test_paths_that_are_no_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist; expected a checkpoint folder or a hub id"):
        locate(name, local_files_only=True)


def test_a_path_object_is_never_a_hub_id(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cache)
    with pytest.raises(CheckpointError, match="'owner/tiny' does not exist"):
        locate(Path("owner/tiny"), cache_dir=cache, local_files_only=True)


def test_a_file_is_no_folder(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(single)
    for name in ("config.json", str(single / "config.json")):
        with pytest.raises(CheckpointError, match=r"config\.json' is not a folder"):
            locate(name)


def test_cached_repository_loads_through_its_links(cache: Path) -> None:
    folder = locate("owner/tiny", cache_dir=cache, local_files_only=True)
    assert folder.name == REVISION
    with Checkpoint.open(folder) as checkpoint:
        assert checkpoint.read("classifier.scale") == np.float32(1.5)
        assert checkpoint.json("1_Pooling/config.json") == {"pooling_mode": "cls"}


def test_cached_repository_loads_through_a_linked_cache(cache: Path) -> None:
    (cache.parent / "alias").symlink_to(cache)
    folder = locate("owner/tiny", cache_dir=cache.parent / "alias", local_files_only=True)
    Checkpoint.open(folder).close()


@pytest.mark.parametrize("target", ["../../../other/blobs/x", "../../refs/main", "../../../../secret"])
def test_links_to_elsewhere_in_the_cache_are_refused(cache: Path, target: str) -> None:
    folder = locate("owner/tiny", cache_dir=cache, local_files_only=True)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    goal = folder / target
    goal.parent.mkdir(parents=True, exist_ok=True)
    goal.write_bytes(content)
    weights.symlink_to(target)
    with pytest.raises(CheckpointError, match="outside the checkpoint folder"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("layout", ["repository/snapshots", "models--owner--tiny/revisions"])
def test_the_hub_layout_counts_only_with_its_names(single: Path, tmp_path: Path, layout: str) -> None:
    folder = tmp_path / layout / REVISION
    blobs = folder.parent.parent / "blobs"
    blobs.mkdir(parents=True)
    folder.parent.mkdir()
    single.rename(folder)
    (folder / "model.safetensors").rename(blobs / "x")
    (folder / "model.safetensors").symlink_to("../../blobs/x")
    with pytest.raises(CheckpointError, match="outside the checkpoint folder"):
        Checkpoint.open(folder)


def test_an_interrupted_download(cache: Path) -> None:
    folder = locate("owner/tiny", cache_dir=cache, local_files_only=True)
    (folder / "model.safetensors").resolve().unlink()
    with pytest.raises(CheckpointError, match="broken link"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("way", ["argument", "environment"])
@pytest.mark.parametrize("name", ["owner/unknown", "unknown"])
def test_offline_and_not_cached(name: str, way: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", way == "environment")
    with pytest.raises(CheckpointError, match=r"^'.*unknown' is no folder and not completely in the local cache") as e:
        locate(name, cache_dir=cache, local_files_only=way == "argument")
    assert "\n" not in str(e.value)


def test_offline_and_another_revision(cache: Path) -> None:
    with pytest.raises(CheckpointError, match="not completely in the local cache"):
        locate("owner/tiny", revision="v2", cache_dir=cache, local_files_only=True)


def test_cached_repository_without_safetensors(cache: Path) -> None:
    (cache / "models--owner--tiny" / "snapshots" / REVISION / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="'owner/tiny' on the hub has no safetensors file"):
        locate("owner/tiny", cache_dir=cache, local_files_only=True)


def hub_error(kind: Any) -> Any:
    if issubclass(kind, errors.HfHubHTTPError):
        request = SimpleNamespace(url="https://hub.test", method="GET")
        return kind("text", response=SimpleNamespace(headers={}, request=request))
    return kind("text")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.GatedRepoError, "'owner/tiny' is gated: accept its terms"),
        (errors.RepositoryNotFoundError, "'owner/tiny' is neither a folder nor a public repository"),
        (errors.RevisionNotFoundError, "'owner/tiny' has no revision 'v2'"),
        (errors.LocalEntryNotFoundError, "'owner/tiny' is no folder and not completely in the local cache"),
        (errors.HfHubHTTPError, "'owner/tiny' could not be downloaded: HfHubHTTPError: text"),
        (TimeoutError, "'owner/tiny' could not be downloaded: TimeoutError: text"),
    ],
)
def test_hub_errors_become_one_sentence(kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise hub_error(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=message) as caught:
        locate("owner/tiny", revision="v2")
    assert type(caught.value.__cause__) is kind


def test_names_that_the_hub_forbids() -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a valid hub id"):
        locate("owner/name..git", local_files_only=True)


def test_only_what_is_needed_is_downloaded(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def download(repo: str, **kwargs: Any) -> str:
        seen.update(kwargs, repo=repo)
        return str(single)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate("owner/tiny", revision="v2", token="secret", cache_dir="there") == single
    assert seen["repo"] == "owner/tiny"
    assert (seen["revision"], seen["token"], seen["cache_dir"]) == ("v2", "secret", "there")
    offered = [
        "config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "vocab.txt", "spiece.model",
        "1_Pooling/config.json", "pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", "README.md",
        "original/consolidated.00.pth", "consolidated.safetensors", "fp16/model.safetensors", "code.py",
    ]  # fmt: skip
    patterns = {key: seen[key] for key in ("allow_patterns", "ignore_patterns")}
    assert list(huggingface_hub.utils.filter_repo_objects(offered, **patterns)) == offered[:6]


def test_a_configuration_alone_is_downloaded(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def download(repo: str, **kwargs: Any) -> str:
        seen.update(kwargs, repo=repo)
        return str(single)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = locate_config("owner/tiny", revision="v2", token="secret", cache_dir="there")
    assert found == single / "config.json"
    assert (seen["repo"], seen["revision"], seen["token"], seen["cache_dir"]) == ("owner/tiny", "v2", "secret", "there")
    offered = ["config.json", "1_Pooling/config.json", "model.safetensors", "tokenizer.json", "generation_config.json"]
    patterns = {key: seen[key] for key in ("allow_patterns", "ignore_patterns")}
    assert list(huggingface_hub.utils.filter_repo_objects(offered, **patterns)) == ["config.json"]


def test_a_configuration_in_the_cache(cache: Path) -> None:
    folder = cache / "models--owner--tiny" / "snapshots" / REVISION
    for file in folder.glob("*.safetensors"):
        file.unlink()
    assert locate_config("owner/tiny", cache_dir=cache, local_files_only=True) == folder / "config.json"
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        locate_config("owner/tiny", cache_dir=cache, local_files_only=True)


def test_a_configuration_outside_its_folder(folder: Path) -> None:
    (folder / "config.json").rename(folder.parent / "elsewhere")
    (folder / "config.json").symlink_to("../elsewhere")
    with pytest.raises(CheckpointError, match="outside the checkpoint folder"):
        locate_config(folder)


def test_import_is_light() -> None:
    heavy = {"huggingface_hub", "tokenizers", "torch", "transformers"}
    code = f"import qkv.checkpoint, sys; print(*sorted({heavy} & set(sys.modules)))"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
