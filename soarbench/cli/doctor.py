"""``python -m soarbench doctor``: which judges can run here, and how to get the others.

Looks at files and at importlib alone, so that it answers at once.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Column, Table

from evaluators.preference.config import UnifiedRewardConfig
from evaluators.weights import PublishedWeights
from soarbench.evaluation.judges import JUDGES, Judge, judge_named

#: Import names that differ from the package's name.
_PIP_NAMES = {"open_clip": "open_clip_torch"}
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_SERVER = (
    "python -m sglang.launch_server --model-path CodeGoat24/UnifiedReward-7b-v1.5 "
    "--served-model-name UnifiedReward-7b-v1.5 --port 8080"
)
_SERVER_WAIT_SECONDS = 0.5


@dataclass(frozen=True)
class Finding:
    """The state of one judge; ``missing`` is empty when it is ready, and ``command`` then too."""

    name: str
    missing: str
    command: str
    disk_gb: float
    memory_gb: float


def cached_snapshot(weights: PublishedWeights) -> Path | None:
    """The hub cache's folder with these weights, if it has them whole.

    The hub's client links a file into a snapshot only when all of it is there.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"models--{weights.repo.replace('/', '--')}"
    reference = folder / "refs" / "main"
    if not reference.is_file():
        return None
    snapshot = folder / "snapshots" / reference.read_text().strip()
    found = {path.name for pattern in weights.files for path in snapshot.glob(pattern)}
    has_weights = any(name.endswith(_WEIGHT_SUFFIXES) for name in weights.files)
    wanted = _WEIGHT_SUFFIXES if has_weights else ("",)
    return snapshot if any(name.endswith(wanted) for name in found) else None


def examine(name: str) -> Finding:
    """What a judge lacks here.

    Raises:
        ConfigError: There is no such judge.
    """
    judge = judge_named(name)
    missing, command = _lack(name, judge)
    disk = sum(weights.disk_gb for weights in judge.weights)
    memory = sum(weights.memory_gb for weights in judge.weights)
    return Finding(name, missing, command, disk, memory)


def _lack(name: str, judge: Judge) -> tuple[str, str]:
    packages = [package for package in judge.packages if find_spec(package) is None]
    if packages:
        names = " ".join(_PIP_NAMES.get(package, package) for package in packages)
        return f"packages {names}", f"pip install {names}"
    absent = [weights.repo for weights in judge.weights if cached_snapshot(weights) is None]
    if absent:
        return f"weights {', '.join(absent)}", f"python -m soarbench fetch {name}"
    if judge.is_lab and not _has_lab_assets():
        return "the laboratory's assets", "python -m soarbench lab build"
    if judge.config is UnifiedRewardConfig and not _answers(UnifiedRewardConfig().base_url):
        return f"a server at {UnifiedRewardConfig().base_url}", _SERVER
    return "", ""


def _has_lab_assets() -> bool:
    assets = Path(__file__).parents[1] / "lab" / "assets"
    return all((assets / part).exists() for part in ("manifest.json", "clip", "aesthetic"))


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    try:
        with socket.create_connection(address, timeout=_SERVER_WAIT_SECONDS):
            return True
    except OSError:
        return False


def doctor(names: Sequence[str], *, console: Console) -> int:
    """Print the state of some judges, or of all.

    Raises:
        ConfigError: There is no such judge.
    """
    table = Table("judge", Column("state", overflow="fold"), "disk GB", "memory GB", "measures")
    findings = [examine(name) for name in names or JUDGES]
    for found in findings:
        state = f"missing {found.missing}" if found.missing else "ready"
        sizes = [f"{size:.2f}" if size else "-" for size in (found.disk_gb, found.memory_gb)]
        table.add_row(found.name, state, *sizes, JUDGES[found.name].summary)
    console.print(table)
    for found in findings:
        if found.missing:
            line = f"to get {found.name}: {found.command}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0
