"""Files of models: what identifies those on disk, and what the hub gives or why it does not."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluators.weights import hub_failures
from soarbench.common.errors import UserError
from soarbench.common.files import files_digest


def is_directory(path: str) -> bool:
    """Whether a path in a configuration means a directory and not a hub id."""
    folder = Path(path).expanduser()
    return folder.exists() or folder.is_absolute() or path.startswith((".", "~"))


def folder_digest(folder: Path, *parts: str) -> str:
    """Of names, sizes and ends of a folder's files, or of those in subfolders that match a part."""
    # Hashing all of 15 GB before every run would take a minute.
    folders = [place for part in parts for place in folder.glob(part)] if parts else [folder]
    files = (path for place in folders for path in place.rglob("*") if path.is_file())
    return files_digest(sorted(files), folder)


def model_json(path: Path, setting: str) -> dict[str, Any]:
    """A file of a model; ``UserError`` names ``setting`` where it is no JSON object."""
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{setting}: {path} is no JSON object") from error
    if not isinstance(values, dict):
        raise UserError(f"{setting}: {path} is no JSON object")
    return values


def class_name(config: Path, setting: str) -> object:
    """The class that a file of diffusers names; ``UserError`` where it is no JSON object."""
    return model_json(config, setting).get("_class_name")


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def hub_file(key: str, repo: str, revision: str | None, name: str) -> Path:
    """One file of a repository, cached or downloaded; ``UserError`` names the setting ``key``."""
    with _explained(key, repo, revision):
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(repo, name, revision=revision))


def cached_file(key: str, repo: str, revision: str | None, name: str) -> Path | None:
    """A file of a repository that the local hub cache has; ``UserError`` where it can have none."""
    with _explained(key, repo, revision):
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(repo, name, revision=revision)
    return Path(path) if isinstance(path, str) else None


def hub_snapshot(key: str, repo: str, revision: str | None, files: Sequence[str]) -> Path:
    """The local folder with files of a repository that match patterns; else as ``hub_file``."""
    with _explained(key, repo, revision):
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(files)))


def cached_set(repo: str, revision: str | None, files: list[str] | None) -> Path | None:
    """The local hub cache's folder of a set of data, if it has the files (null: all) whole."""
    from huggingface_hub import constants, errors, snapshot_download
    from huggingface_hub.file_download import repo_folder_name

    try:
        folder = snapshot_download(
            repo, repo_type="dataset", revision=revision, allow_patterns=files,
            local_files_only=True,
        )  # fmt: skip
    except errors.LocalEntryNotFoundError:
        return None
    # Which files there should be is known where the hub's client listed them alone; a download that
    # was interrupted leaves this behind.
    name = repo_folder_name(repo_id=repo, repo_type="dataset")
    blobs = Path(constants.HF_HUB_CACHE) / name / "blobs"
    has_files = any(path.is_file() for path in Path(folder).rglob("*"))
    return Path(folder) if has_files and not any(blobs.glob("*.incomplete")) else None


def hub_licence(model: str) -> str | None:
    """The licence that a model's card names: of a folder, or of a repository in the cache."""
    from huggingface_hub.repocard import metadata_load

    folder = Path(model)
    # Nothing is downloaded: whoever trained has it, or says it.
    is_here = folder.is_dir()
    path = folder / "README.md" if is_here else cached_file("model.path", model, None, "README.md")
    if path is None or not path.is_file():
        return None
    metadata = metadata_load(path) or {}
    name = metadata.get("license")
    return str(metadata.get("license_name") or name) if name else None


def require_token(repo: str) -> None:
    """``UserError`` where the hub does not know who uploads."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError(
            f"repo={repo}: there is no token of the hub; log in with `hf auth login`, or set "
            "HF_TOKEN"
        )


def hub_upload(repo: str, files: Mapping[str, Path], *, private: bool) -> str:
    """Upload files, all or none, into a repository that is made if need be. -> Its address."""
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [CommitOperationAdd(place, path) for place, path in sorted(files.items())]
    try:
        api = HfApi()
        address = api.create_repo(repo, private=private, exist_ok=True)
        api.create_commit(repo, operations, commit_message="Weights and card, by soarbench")
    except hub_failures() as error:
        raise UserError(
            f"repo={repo}: the hub did not take it ({first_line(error)}); nothing is lost, the "
            "same command tries again"
        ) from error
    return str(address)


@contextlib.contextmanager
def _explained(key: str, repo: str, revision: str | None) -> Iterator[None]:

    client = logging.getLogger("huggingface_hub")
    level = client.level
    # Its retries are lines line by line; what came of them is lines below.
    client.setLevel(logging.ERROR)
    try:
        yield
    except hub_failures() as error:
        where = f"{key}={repo}" + (f" (revision {revision})" if revision else "")
        # What ``fetch`` takes by hub id; a base is a whole repository, which the hub's client gets.
        download = "python -m soarbench fetch" if key == "model.adapter" else "hf download"
        raise UserError(f"{where}: {_refusal(error, repo, download)}") from error
    finally:
        client.setLevel(level)


def _refusal(error: Exception, repo: str, download: str) -> str:
    from huggingface_hub import constants, errors

    offline = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else "the hub is out of reach"
    # The first that fits: a gated repository's error is one of a repository that is not found.
    refusals = {
        errors.HFValidationError: "neither a directory nor a hub id (owner/name); check the "
        "spelling",
        errors.GatedRepoError: f"the hub gates it; accept its licence at https://huggingface.co/"
        f"{repo}, then log in with `hf auth login`",
        errors.RepositoryNotFoundError: "the hub has none of that name, or it is private; check "
        "the spelling, or log in with `hf auth login`",
        errors.RevisionNotFoundError: "the hub has no such revision; leave it out or name one",
        errors.LocalEntryNotFoundError: f"not in the local hub cache ({constants.HF_HUB_CACHE}) "
        f"and {offline}; get it where there is a network (`{download} {repo}`), or give a "
        "directory",
    }
    other = f"the hub did not give it ({first_line(error)}); try again later"
    return next((text for kind, text in refusals.items() if isinstance(error, kind)), other)
