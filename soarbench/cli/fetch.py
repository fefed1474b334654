"""``python -m soarbench fetch NAME...``: downloads published weights, verified."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from evaluators.weights import (
    PublishedFile,
    PublishedWeights,
    WeightsError,
    hub_failures,
    sha256_of,
)
from soarbench.cli.doctor import JudgeOptions, cached_snapshot
from soarbench.cli.published import prompt_files, public_adapters
from soarbench.common.errors import DamagedFile, UserError
from soarbench.common.files import set_aside
from soarbench.common.progress import print_line
from soarbench.config.folders import Folders, search_path
from soarbench.config.registries import every_judge, require_judges
from soarbench.models.adapters import adapter_root

log = logging.getLogger(__name__)

#: Git keeps small files under a sha1 of 40 digits.
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: What is no judge's: prompts of suites, and adapters that grids evaluate.
_PROMPTS, _ANCHORS = _OTHERS = ("prompts", "anchors")


def fetch(
    names: Sequence[str], _options: JudgeOptions, words: Sequence[str], *, console: Console
) -> int:
    """Fetch the weights of judges, prompts and public adapters, and verify them."""
    folders = search_path(words)
    judges = every_judge(folders)
    others = [name for name in names if name in _OTHERS or "/" in name]
    if not names:
        known = ", ".join(name for name, one in judges.items() if one.published or one.optional)
        raise UserError(
            f"name what to fetch: {known}; {_PROMPTS} (of suites), {_ANCHORS} (public adapters), "
            "or the hub id of an adapter"
        )
    names = [name for name in names if name not in others]
    require_judges(names, [*judges, *_OTHERS])
    _fetch_others(others, folders, console)
    needs = [(*judges[name].published, *judges[name].optional) for name in names]
    published = dict.fromkeys(weights for judge in needs for weights in judge)
    # Single files first: whoever asks a server needs GenEval 2's prompts alone.
    downloads = sorted(published, key=lambda weights: isinstance(weights, PublishedWeights))
    if names and not downloads:
        console.print("these judges need no weights of the hub")
    for weights in downloads:
        print_line(console, f"{weights.title}: {_fetched(weights)}")
    return 0


def _fetch_others(names: Sequence[str], folders: Folders, console: Console) -> None:
    """Fetch the prompts of suites, and adapters by their hub ids; verified as far as known."""
    if _PROMPTS in names:
        for file in prompt_files(folders).values():
            print_line(console, f"{file.title}: {_fetched_file(file, key=_PROMPTS)}")
    adapters = [name for name in names if name not in _OTHERS]
    adapters += public_adapters(folders) if _ANCHORS in names else []
    for adapter in dict.fromkeys(adapters):
        print_line(console, f"{adapter}: revision {adapter_root(adapter).name}")


def _fetched_file(file: PublishedFile, *, key: str = "weights") -> str:
    """Fetch a file unless it is here, and verify it. -> What to say of it."""
    from evaluators.downloads import resolve_published

    if file.path.is_file() and not sha256_of(file.path).startswith(file.sha256):
        log.warning("%s is another file than published; fetched again", _aside(file.path))
    try:
        _check_space(file, file.path.parent, is_cached=file.path.is_file())
        path = resolve_published(file, key=key)
    except WeightsError as error:
        raise UserError(str(error)) from error
    return f"{path}, verified by sha256 {file.sha256}"


def _aside(path: Path) -> str:
    """Move a damaged file away. -> What to say of it."""
    return f"{path}, set aside as {set_aside(path, path.with_name(f'{path.name}.damaged')).name},"


def _fetched(weights: PublishedWeights | PublishedFile) -> str:
    """Fetch what is not here, and verify it. -> What to say of it."""
    if isinstance(weights, PublishedFile):
        return _fetched_file(weights)
    folder = _snapshot(weights)
    try:
        count = verify(weights, folder)
    except DamagedFile as error:
        log.warning("%s; fetched again", error)
        folder = _snapshot(weights)
        count = verify(weights, folder)
    return f"revision {folder.name}, {count} files verified by sha256"


def _snapshot(weights: PublishedWeights) -> Path:
    """The snapshot from the hub, or from its cache where there is no network."""
    from huggingface_hub import constants, snapshot_download

    snapshot = cached_snapshot(weights)
    if constants.is_offline_mode():
        if snapshot is None:
            raise UserError(
                f"{weights.repo} is not in the local hub cache ({constants.HF_HUB_CACHE}) while "
                "HF_HUB_OFFLINE is set; unset it where there is a network, and fetch again"
            )
        return snapshot
    # The hub's client only warns, and fails when the disk is full.
    _check_space(weights, Path(constants.HF_HUB_CACHE), is_cached=snapshot is not None)
    try:
        folder = Path(snapshot_download(weights.repo, allow_patterns=list(weights.files)))
    except hub_failures() as error:
        raise UserError(
            f"the hub did not give {weights.repo} ({type(error).__name__}); check the network and "
            "run the same command again, it goes on where it was"
        ) from error
    # A pattern that matches nothing is no error to the hub's client.
    if cached_snapshot(weights) is None:
        raise UserError(f"{weights.repo} has none of {', '.join(weights.files)} on the hub")
    return folder


def _check_space(
    weights: PublishedWeights | PublishedFile, cache: Path, *, is_cached: bool
) -> None:
    # The cache may not exist yet; its disk is that of the nearest folder above.
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    if not is_cached and free_gb < weights.disk_gb:
        raise UserError(
            f"{weights.title} needs {weights.disk_gb:.1f} GB, but {existing} has {free_gb:.1f} GB "
            "free; make room, or set HF_HOME to another disk"
        )


def verify(weights: PublishedWeights, folder: Path) -> int:
    """Hash every large file of a snapshot again. -> How many have a sha256 to compare with.

    ``DamagedFile`` where one has another, and is moved away.
    """
    known = dict(weights.sha256)
    paths = {path for pattern in weights.files for path in folder.glob(pattern)}
    count = 0
    for path in sorted(paths):
        # The hub's client names a large file's blob by the sha256 that the hub gave for it.
        blob = path.resolve()
        expected = [known[path.name]] if path.name in known else []
        expected += [blob.name] if _SHA256.fullmatch(blob.name) else []
        if not expected:
            continue  # The small ones, which git keeps: they stand under the hub's revision.
        count += 1
        with blob.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if set(expected) != {digest}:
            line = f"{_aside(blob)} is damaged: its sha256 is {digest}, not {expected[0]}"
            # Of a file that is moved away the link stays behind.
            path.unlink(missing_ok=True)
            raise DamagedFile(line)
    return count
