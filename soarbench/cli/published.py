"""Prompts, sets of images and adapters that are published: where they are, and how to get them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from evaluators.weights import PublishedFile
from soarbench.common.strict import TARGET, convert, dotted
from soarbench.config.composition import registered
from soarbench.config.folders import Folders
from soarbench.config.keys import split
from soarbench.config.settings import GridConfig
from soarbench.config.suites import SuiteConfig
from soarbench.data.forms import DatasetsDataConfig, to_download
from soarbench.evaluation.suites import PromptFile

_ADAPTER = "model.adapter"
_OF_A_SET = ("revision", "data_files", "licence")


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """What ``doctor`` says of prompts or of a set.

    ``command`` gets it, and is empty when it is here; ``source`` names where it comes from, and
    ``summary`` what it is, with the licence where one is known.
    """

    name: str
    state: str
    command: str
    source: str
    summary: str


def prompt_files(folders: Folders) -> dict[str, PublishedFile]:
    """Published files of prompts by their suites, each file once."""
    suites = (_suite(values) for values in registered("suite", folders).values())
    files = {suite.name: suite.published for suite in suites if isinstance(suite, PromptFile)}
    once: dict[PublishedFile, str] = {}
    for name, file in files.items():
        if file is not None:
            once.setdefault(file, name)
    return {name: file for file, name in once.items()}


def _suite(values: Mapping[str, object]) -> object:
    # Sizes are a budget's, which nobody has chosen here.
    sizes = {"images_per_prompt": 1, "max_prompts": None}
    return convert(SuiteConfig, {**values, **sizes}, "suite")


def prompt_rows(folders: Folders) -> list[PublishedRow]:
    """A row for each published file of prompts; GenEval's follow from their sampling procedure."""
    fetch = "python -m soarbench fetch prompts"
    return [
        PublishedRow(
            name=f"suite={name}",
            state="ready" if file.path.is_file() else "missing",
            command="" if file.path.is_file() else fetch,
            source=_repository(file.url),
            summary="prompts",
        )
        for name, file in prompt_files(folders).items()
    ]


def data_rows(folders: Folders) -> list[PublishedRow]:
    """A row for each set of images on the hub that ``data=NAME`` names."""
    rows = []
    for name, values in registered("data", folders).items():
        if values.get(TARGET) == dotted(DatasetsDataConfig) and values.get("path") is not None:
            rows.append(data_row(f"data={name}", values))
    return rows


def data_row(name: str, values: Mapping[str, object]) -> PublishedRow:
    """What is known of a set of the hub, by the values of its configuration."""
    path, (revision, files, licence) = str(values["path"]), map(_text, map(values.get, _OF_A_SET))
    is_here = any((_hub_folder(path) / "snapshots").glob(revision or "*"))
    return PublishedRow(
        name=name,
        state="begun or ready" if is_here else "comes when used",
        command="" if is_here else to_download(path, revision, files),
        source=f"{path}@{(revision or 'main')[:7]}",
        summary=f"images with captions, licence {licence or 'as its page says'}",
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _hub_folder(path: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"datasets--{path.replace('/', '--')}"


def _repository(url: str) -> str:
    """Owner, repository and commit of a file of GitHub; another place as it is."""
    parts = url.removeprefix("https://raw.githubusercontent.com/").split("/")
    return url if parts[0].endswith(":") else f"{parts[0]}/{parts[1]}@{parts[2][:7]}"


def public_adapters(folders: Folders) -> list[str]:
    """Hub ids of the adapters that variants of the base are of, in all grids."""
    grids = registered("grid", folders).values()
    every = (cast(GridConfig, convert(GridConfig, values, "grid")) for values in grids)
    variants = [grid.variants[name] for grid in every for name in grid.untrained]
    words = [split(text) for variant in variants for text in variant.settings]
    return list(dict.fromkeys(word.text for word in words if word.key == _ADAPTER))
