"""Where an evaluator's weights are: a local path or a hub id, found without guessing and hashed.

A hub id is looked up in the local Hugging Face cache first; only when it is missing there and the
hub may be asked (``HF_HUB_OFFLINE`` unset) is it fetched.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.errors import EvaluatorError

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class WeightsError(EvaluatorError):
    """Weights that are missing, unreadable or of another shape; one line with the remedy."""


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """What ``doctor`` and ``fetch`` need to know of an evaluator's published weights.

    Attributes:
        repo: Hub id.
        files: The files needed, as patterns of the hub's ``allow_patterns``.
        disk_gb: Size on disk, 1e9 bytes.
        memory_gb: Memory the evaluator holds in float32, 1e9 bytes.
        sha256: Known hashes as (file, sha256); other files are verified by the hub's own.
    """

    repo: str
    files: tuple[str, ...]
    disk_gb: float
    memory_gb: float
    sha256: tuple[tuple[str, str], ...] = ()


def content_digest(weights: str, files: Sequence[str] = ("*",)) -> str:
    """What identifies weights without loading them, for addresses.

    Args:
        weights: A file, a directory, or a hub id.
        files: Patterns of the files that count in a directory.

    Returns:
        The content's sha256, wherever it lies; a hub id itself, since its files may not be here
        yet and would have another digest before they are fetched than after.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return sha256_of(path)
    # An empty name is the current directory to pathlib.
    if not weights or not path.is_dir():
        return weights
    parts = {part for pattern in files for part in path.glob(pattern) if part.is_file()}
    # One file is the same weights whether it is named itself or by the directory it lies in.
    return sha256_of(*parts) if len(parts) == 1 else combined_hash(parts)


def cache_dir() -> Path:
    """The folder for prepared files: ``$SOARBENCH_CACHE``, or ``soarbench`` in the user's cache."""
    override = os.environ.get("SOARBENCH_CACHE")
    if override:
        return Path(override).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "soarbench"
    root = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "soarbench"


def resolve_directory(weights: str | Path, files: Sequence[str], *, key: str = "weights") -> Path:
    """Find the directory that ``weights`` names.

    Args:
        weights: A local directory, or a hub id ``owner/name``, ``owner/name@revision``.
        files: Patterns of the files that are needed from the hub.
        key: Name of the setting, for errors.

    Returns:
        A directory; for a hub id that of the snapshot in the local cache.

    Raises:
        WeightsError: It is neither; the line says how to get it.
    """
    path = Path(weights).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise WeightsError(f"{key}={weights}: this is a file, but a model directory is needed")
    repo, revision = _hub_id(weights, key)

    def fetch(local_only: bool) -> str:
        from huggingface_hub import snapshot_download

        patterns = list(files)
        return snapshot_download(
            repo, revision=revision, allow_patterns=patterns, local_files_only=local_only
        )

    folder = Path(_from_hub(f"{key}={weights}", fetch))
    if not any(True for pattern in files for _ in folder.glob(pattern)):
        raise WeightsError(
            f"{key}={weights}: the hub's snapshot has none of {', '.join(files)}; "
            "name a repository of the right kind"
        )
    return folder


def resolve_file(weights: str | Path, filename: str, *, key: str = "weights") -> Path:
    """Find one file of weights.

    Args:
        weights: The file itself, a directory that holds ``filename``, or a hub id.
        filename: Its name in a directory or in the hub's repository.
        key: Name of the setting, for errors.

    Returns:
        Path of an existing file.

    Raises:
        WeightsError: There is none; the line says how to get it.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / filename).is_file():
            raise WeightsError(f"{key}={weights}: this directory holds no {filename}")
        return path / filename
    repo, revision = _hub_id(weights, key)

    def fetch(local_only: bool) -> str:
        from huggingface_hub import hf_hub_download

        return hf_hub_download(repo, filename, revision=revision, local_files_only=local_only)

    return Path(_from_hub(f"{key}={weights}", fetch))


def _hub_id(weights: str | Path, key: str) -> tuple[str, str | None]:
    match = _HUB_ID.fullmatch(str(weights))
    if match is None:
        raise WeightsError(
            f"{key}={weights}: no such file or directory, and not a hub id (owner/name)"
        )
    return match["repo"], match["revision"]


def _from_hub(setting: str, fetch: Callable[[bool], str]) -> str:
    """Look in the local cache, then on the hub when that is allowed."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        return fetch(True)
    except LocalEntryNotFoundError as missing:
        if constants.is_offline_mode():
            name = setting.partition("=")[2].partition("@")[0]
            raise WeightsError(
                f"{setting}: no such path, and not in the local hub cache "
                f"({constants.HF_HUB_CACHE}) while HF_HUB_OFFLINE is set; run "
                f"`hf download {name}` with a network, or give a local path"
            ) from missing
    except HFValidationError as err:
        raise WeightsError(f"{setting}: not a hub id ({_first_line(err)})") from err
    _check_reachable(setting, constants.ENDPOINT)
    try:
        return fetch(False)
    except (EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled, OSError) as err:
        raise WeightsError(
            f"{setting}: no such path, and the hub did not give it "
            f"({type(err).__name__}: {_first_line(err)}); check the name and the network, "
            "or give a local path"
        ) from err


def _check_reachable(setting: str, endpoint: str) -> None:
    """One request: the hub's client tries for half a minute before it says there is no network."""
    import requests

    try:
        requests.head(endpoint, timeout=10)
    except requests.RequestException as err:
        raise WeightsError(
            f"{setting}: no such path, not in the local hub cache, and {endpoint} does "
            f"not answer ({type(err).__name__}); give a local path or try again with a network"
        ) from err


def _first_line(err: Exception) -> str:
    lines = str(err).strip().splitlines()
    return lines[0] if lines else "no message"


def sha256_of(path: Path) -> str:
    """The sha256 of a file; of a hub's large file without reading it, its blob being named so."""
    real = path.resolve()
    if real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
        return real.name
    state = real.stat()
    return _hashed(real, state.st_size, state.st_mtime_ns)


@functools.cache
def _hashed(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001 (parts of the cache key)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def combined_hash(files: Iterable[Path]) -> str:
    """One sha256 of the names and contents of several files, whatever their order."""
    lines = sorted(f"{path.name} {sha256_of(path)}" for path in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
