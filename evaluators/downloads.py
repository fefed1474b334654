"""Files that are published outside the hub: fetched once, checked by their sha256, and kept."""

from __future__ import annotations

import os
from pathlib import Path

from evaluators.weights import PublishedFile, WeightsError, sha256_of

_CHUNK, _SECONDS = 1 << 20, 30


def resolve_published(file: PublishedFile, *, key: str = "weights") -> Path:
    """The file in the cache, fetched where it is not; ``WeightsError`` where it is not to be had.

    Messages name the setting ``key``.
    """
    from huggingface_hub import constants

    if file.path.is_file():
        # Messages here and elsewhere tell people to put it there themselves.
        _check_published(file, file.path)
        return file.path
    if constants.is_offline_mode():
        raise WeightsError(
            f"{key}: not in {file.path.parent} while HF_HUB_OFFLINE is set: {file.url}; "
            "put it there"
        )
    return download(file, key=key)


def download(file: PublishedFile, *, key: str = "weights") -> Path:
    """Fetch the file to its place; ``WeightsError`` where it does not come, or is another."""
    import requests

    # Renamed once it is whole and verified: no half of a file is ever taken for it.
    part = file.path.with_name(f".{file.name}-{os.getpid()}")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with requests.get(file.url, stream=True, timeout=_SECONDS) as response:
            response.raise_for_status()
            with part.open("wb") as stream:
                for chunk in response.iter_content(_CHUNK):
                    stream.write(chunk)
        _check_published(file, part)
        part.replace(file.path)
    except (requests.RequestException, OSError) as error:
        raise WeightsError(
            f"{key}: {file.url} does not give it ({type(error).__name__}); put it into "
            f"{file.path.parent}"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return file.path


def _check_published(file: PublishedFile, path: Path) -> None:
    """Refuse, by a ``WeightsError``, a copy of another content."""
    digest = sha256_of(path)
    if not digest.startswith(file.sha256):
        raise WeightsError(
            f"{path if path == file.path else file.url}: another file than published, its sha256 "
            f"is {digest}, not {file.sha256}; put the published one into {file.path.parent}"
        )
