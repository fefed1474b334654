"""Where an evaluator's weights are: a local path or a hub id, found without guessing and hashed."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class EvaluatorError(RuntimeError):
    """An evaluator that cannot be trusted to score at all (missing weights, canaries reversed)."""


class WeightsError(EvaluatorError):
    """Weights that are missing, unreadable or of another shape; one line with the remedy."""


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """What ``doctor`` and ``fetch`` need to know of weights on the hub; sizes in 1e9 bytes.

    ``files`` are the hub's ``allow_patterns``; ``memory_gb`` is for float32; ``sha256`` has known
    (file, sum), other files are verified by the hub's own.
    """

    repo: str
    files: tuple[str, ...]
    disk_gb: float
    memory_gb: float
    sha256: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """What to call it."""
        return self.repo


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One file that is published outside the hub; it is kept as ``cache_dir()/files/NAME``.

    ``name`` is what a setting calls it; ``sha256`` its sum, or the beginning that is published of
    it; sizes as of ``PublishedWeights``.
    """

    name: str
    url: str
    sha256: str
    disk_gb: float
    memory_gb: float = 0.0

    @property
    def path(self) -> Path:
        """Where it is, or would be, on this machine."""
        return cache_dir() / "files" / self.name

    @property
    def title(self) -> str:
        """What to call it."""
        return self.name


def content_digest(weights: str, files: Sequence[str] = ("*",)) -> str:
    """What identifies weights (file, directory or hub id) without loading them, for addresses.

    A path has the sha256 of its content, a directory that of what matches the patterns ``files``;
    a hub id is its own digest.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return sha256_of(path)
    # A hub id's files may not be here yet: their digest would move the address once they are.
    # An empty name is the current directory to pathlib.
    if not weights or not path.is_dir():
        return weights
    parts = {part for pattern in files for part in path.glob(pattern) if part.is_file()}
    # One file is the same weights whether it is named itself or by the directory it lies in.
    return sha256_of(*parts) if len(parts) == 1 else combined_hash(parts)


def cache_dir() -> Path:
    """The folder for prepared files: ``$SOARBENCH_CACHE``, or ``soarbench`` in the user's cache."""
    if override := os.environ.get("SOARBENCH_CACHE"):
        return Path(override).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "soarbench"
    root = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "soarbench"


def resolve_directory(weights: str | Path, files: Sequence[str], *, key: str = "weights") -> Path:
    """A local directory, or the snapshot of a hub id (``owner/name``, ``owner/name@revision``).

    Of the hub, what matches the patterns ``files`` is fetched; where it is neither, a
    ``WeightsError`` names the setting ``key`` and says how to get it.
    """
    path = Path(weights).expanduser()
    if path.is_dir():
        _refuse_other_weights(path, files, f"{key}={weights}")
        return path
    if path.is_file():
        raise WeightsError(f"{key}={weights}: this is a file, but a model directory is needed")
    from huggingface_hub import snapshot_download

    # Another program may have fetched the tokenizer alone, which the hub's client calls a snapshot.
    is_whole = functools.partial(_has_weights, files=files)
    patterns = list(files)
    folder = _from_hub(weights, key, snapshot_download, is_whole, allow_patterns=patterns)
    # The hub's client answers patterns that match nothing with an empty folder.
    if not any(True for pattern in files for _ in folder.glob(pattern)):
        raise WeightsError(
            f"{key}={weights}: the hub's snapshot has none of {', '.join(files)}; "
            "name a repository of the right kind"
        )
    return folder


def _refuse_other_weights(folder: Path, files: Sequence[str], setting: str) -> None:
    """``WeightsError`` where weights lie in files that a library would load and nothing hashes."""
    others = sorted(path.name for path in folder.iterdir() if _is_weights(path.name))
    wanted = [name for name in files if _is_weights(name)]
    if others and wanted and not _weights(folder, files):
        raise WeightsError(
            f"{setting}: its weights are in {others[0]}; save them as {' or '.join(wanted)}"
        )


def _has_weights(folder: Path, *, files: Sequence[str]) -> bool:
    """Whether weights that the patterns name are there, with all parts that an index lists."""
    found, listed = _weights(folder, files), set[str]()
    for index in folder.glob("*.safetensors.index.json"):
        if any(fnmatch.fnmatch(index.name, pattern) for pattern in files):
            weight_map = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {})
            listed |= set(map(str, weight_map.values()))
    return not any(map(_is_weights, files)) or (bool(found) and listed <= found)


def _weights(folder: Path, files: Sequence[str]) -> set[str]:
    """Names of the files of weights that match the patterns."""
    patterns = [pattern for pattern in files if _is_weights(pattern)]
    return {path.name for pattern in patterns for path in folder.glob(pattern)}


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


def resolve_file(weights: str | Path, filename: str, *, key: str = "weights") -> Path:
    """One file of weights, itself or in a directory or hub id; ``WeightsError`` as above."""
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / filename).is_file():
            raise WeightsError(f"{key}={weights}: this directory holds no {filename}")
        return path / filename
    from huggingface_hub import hf_hub_download

    return _from_hub(weights, key, hf_hub_download, filename=filename)


def _from_hub(
    weights: str | Path,
    key: str,
    fetch: Callable[..., str],
    is_whole: Callable[[Path], bool] = Path.exists,
    **options: object,
) -> Path:
    """What the local cache has, where that is whole, or, when the hub may be asked, the hub."""
    from huggingface_hub import constants, errors

    setting = f"{key}={weights}"
    match = _HUB_ID.fullmatch(str(weights))
    if match is None:
        raise WeightsError(f"{setting}: no such file or directory, and not a hub id (owner/name)")
    fetch = functools.partial(fetch, match["repo"], revision=match["revision"], **options)
    # The cache first: a run is the same without a network, and asks nothing for what is here.
    try:
        folder = Path(fetch(local_files_only=True))
        if is_whole(folder):
            return folder
    except errors.LocalEntryNotFoundError:
        pass  # asked of the hub below
    except errors.HFValidationError as err:
        raise WeightsError(f"{setting}: not a hub id ({first_line(err)})") from err
    if constants.is_offline_mode():
        raise WeightsError(
            f"{setting}: no such path, and not in the local hub cache "
            f"({constants.HF_HUB_CACHE}) while HF_HUB_OFFLINE is set; run "
            f"`hf download {match['repo']}` with a network, or give a local path"
        )
    _check_reachable(setting, constants.ENDPOINT)
    try:
        return Path(fetch(local_files_only=False))
    except hub_failures() as err:
        raise WeightsError(
            f"{setting}: no such path, and the hub did not give it "
            f"({type(err).__name__}: {first_line(err)}); check the name and the network, "
            "or give a local path"
        ) from err


def hub_failures() -> tuple[type[Exception], ...]:
    """What the hub's client raises where the hub does not give, or take, what it should."""
    from huggingface_hub import errors

    # Of the library that it asks with, whose name has changed twice: a connection that breaks.
    broken: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    return (errors.EntryNotFoundError, errors.HFValidationError, OSError, broken)


def _check_reachable(setting: str, endpoint: str) -> None:
    import requests

    # The hub's own client tries for half a minute before it says that there is no network.
    try:
        requests.head(endpoint, timeout=10)
    except requests.RequestException as err:
        raise WeightsError(
            f"{setting}: no such path, not in the local hub cache, and {endpoint} does "
            f"not answer ({type(err).__name__}); give a local path or try again with a network"
        ) from err


def first_line(err: Exception) -> str:
    """Of its message: transformers and the hub explain themselves over many lines."""
    return (str(err).strip().splitlines() or ["no message"])[0]


def sha256_of(path: Path) -> str:
    """The sha256 of a file."""
    state = path.stat()
    # By which file it is, its size and time, so that one which is written again is hashed again.
    # Not by where links lead to, which takes longer to find out, for every address anew.
    return _hashed(path, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)


@functools.cache
def _hashed(path: Path, *state: int) -> str:  # noqa: ARG001 (part of the cache key)
    real = path.resolve()
    # The hub's cache names the blob of a large file by its sha256: gigabytes need not be read.
    if real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
        return real.name
    with real.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def combined_hash(files: Iterable[Path]) -> str:
    """One sha256 of the names and contents of several files, whatever their order."""
    lines = sorted(f"{path.name} {sha256_of(path)}" for path in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
