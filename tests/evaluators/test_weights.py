"""Weights are found without guessing, and what is missing is one line with its remedy."""

import hashlib
import json

import pytest
import requests
from huggingface_hub import constants, errors

from evaluators import weights
from evaluators.weights import (
    WeightsError,
    combined_hash,
    resolve_directory,
    resolve_file,
    sha256_of,
)

REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An offline hub cache that holds ``own/clip`` with one large file."""
    root = tmp_path / "hub"
    repo = root / "models--own--clip"
    snapshot = repo / "snapshots" / REVISION
    for folder in (repo / "refs", repo / "blobs", snapshot):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text(REVISION)
    (snapshot / "config.json").write_text("{}")
    blob = repo / "blobs" / ("ab" * 32)
    blob.write_bytes(b"not what its name says, so that reading it would show")
    (snapshot / "model.safetensors").symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return snapshot


def test_local_paths_are_taken_as_they_are(tmp_path):
    file = tmp_path / "head.pth"
    file.write_bytes(b"x")
    assert resolve_directory(tmp_path, ["*"]) == tmp_path
    assert resolve_file(str(file), "other.pth") == file
    assert resolve_file(str(tmp_path), "head.pth") == file


def test_hub_ids_are_found_offline(hub):
    assert resolve_directory("own/clip", ["config.json"]) == hub
    assert resolve_directory(f"own/clip@{REVISION}", ["config.json"]) == hub
    assert resolve_file("own/clip", "config.json") == hub / "config.json"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("own/none", "HF_HUB_OFFLINE is set.*hf download own/none"),
        ("own/clip@v9", "hf download own/clip"),
        ("./missing", "no such file or directory"),
        ("missing.pth", "not a hub id"),
        ("a/b/c", "not a hub id"),
        ("own/cl--ip..", "own/cl--ip"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_missing_weights_are_one_line(name, remedy):
    for resolve in (lambda: resolve_directory(name, ["*"]), lambda: resolve_file(name, "x.pt")):
        with pytest.raises(WeightsError, match=remedy) as caught:
            resolve()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "files",
    [("config.json", "model.safetensors"), ("*.json", "*.safetensors")],
    ids=["one file", "in parts"],
)
def test_weights_that_nothing_would_hash_are_refused(tmp_path, files):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    message = rf"own=.*its weights are in pytorch_model\.bin; save them as .*{files[1][-11:]}"
    with pytest.raises(WeightsError, match=message):
        resolve_directory(tmp_path, files, key="own")
    # Where no weights are asked for, they are nobody's business.
    assert resolve_directory(tmp_path, files[:1] if "*" not in files[0] else ["config.json"])
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert resolve_directory(tmp_path, files) == tmp_path


def test_a_cached_repository_without_its_weights_is_completed(hub, monkeypatch):
    (hub / "model.safetensors").unlink()
    files = ["*.json", "*.safetensors"]
    with pytest.raises(WeightsError, match=r"not in the local hub cache.*hf download own/clip"):
        resolve_directory("own/clip", files)
    asked = []

    def snapshot_download(repo, *, local_files_only, **_):
        asked.append((repo, local_files_only))
        if not local_files_only:
            (hub / "part.safetensors").write_bytes(b"x")
        return str(hub)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(requests, "head", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve_directory("own/clip", files) == hub
    assert resolve_directory("own/clip", files) == hub
    assert asked == [("own/clip", True), ("own/clip", False), ("own/clip", True)]
    # A part that the index lists is missing.
    index = {"weight_map": {"a": "part.safetensors", "b": "other.safetensors"}}
    (hub / "model.safetensors.index.json").write_text(json.dumps(index))
    assert resolve_directory("own/clip", files) == hub
    assert asked[3:] == [("own/clip", True), ("own/clip", False)]


def test_a_connection_that_breaks_is_one_line(hub, monkeypatch):
    def broken(*_, local_files_only, **__):
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not here")
        raise errors.HTTPError("peer closed the connection")

    assert hub.is_dir()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(requests, "head", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", broken)
    with pytest.raises(WeightsError, match=r"did not give it .HTTPError: peer closed") as caught:
        resolve_directory("own/none", ["*"])
    assert "\n" not in str(caught.value)


def test_wrong_kinds_of_paths_are_named(tmp_path):
    file = tmp_path / "head.pth"
    file.write_bytes(b"x")
    with pytest.raises(WeightsError, match="directory is needed"):
        resolve_directory(str(file), ["*"])
    with pytest.raises(WeightsError, match=r"holds no ImageReward\.pt"):
        resolve_file(str(tmp_path), "ImageReward.pt")


def test_a_repository_of_another_kind_is_named(hub):
    with pytest.raises(WeightsError, match=r"none of preprocessor_config\.json"):
        resolve_directory(f"own/clip@{hub.name}", ["preprocessor_config.json"])


def test_no_network_is_said_at_once(hub, monkeypatch):
    def refuse(*_, **__):
        raise requests.ConnectionError("no route")

    assert hub.is_dir()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(requests, "head", refuse)
    with pytest.raises(WeightsError, match="does not answer"):
        resolve_file("own/none", "x.pt")


def test_hashes_are_of_names_and_contents(tmp_path):
    first, second = tmp_path / "a.bin", tmp_path / "b.bin"
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    assert sha256_of(first) == hashlib.sha256(b"one").hexdigest()
    assert combined_hash([first, second]) == combined_hash([second, first])
    before = combined_hash([first, second])
    second.write_bytes(b"three")
    assert combined_hash([first, second]) != before


def test_a_hub_blob_is_hashed_by_its_name(hub):
    assert sha256_of(hub / "model.safetensors") == "ab" * 32


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SOARBENCH_CACHE", str(tmp_path))
    assert weights.cache_dir() == tmp_path
    monkeypatch.delenv("SOARBENCH_CACHE")
    monkeypatch.setattr(weights.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights.cache_dir() == tmp_path / "soarbench"
