"""Published values: printed beside measured ones, never among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from soarbench.report.numbers.names import method_title
from soarbench.store.cells import StoreError

AS_PUBLISHED = "as published"
#: Model and resolution of the published numbers; ours of others are not to be read beside them.
PUBLISHED_MODEL = ("sd35_medium", 512)
#: Grids that the paper has values for.
PUBLISHED_GRIDS = ("main_table", "reward_specific")
SOURCE = "arXiv:2604.12617, SD3.5-Medium at 512 px"
#: The published tables' own headings, by the columns of ``paper_table.csv``.
_HEADS = {
    "model": "Model", "iterations": "Steps", "resolution": "Resolution",
    "geneval": "GenEval", "ocr": "OCR", "pickscore": "PickScore", "clipscore": "CLIPScore",
    "hpsv21": "HPSv2.1", "aesthetic": "Aesthetic", "imagereward": "ImageReward",
}  # fmt: skip
_NAMES = {method_title(method): method for method in ("sft", "soar", "flow_grpo")}


@dataclass(frozen=True, kw_only=True)
class PublishedPoint:
    """One value of the paper's curves.

    Attributes:
        task: What was optimised.
        metric: What was measured.
        method: Name, as ours.
        step: Optimiser steps.
        text: The number as published; there is no interval.
        read_from: ``text``, or ``figure`` when it was read off the plot.
    """

    task: str
    metric: str
    method: str
    step: int
    text: str
    read_from: str

    @property
    def value(self) -> float:
        """The number."""
        return float(self.text)


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """Published rows in the order and with the columns of their source, as text.

    Attributes:
        columns: Heads.
        rows: As many texts each.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def published_curves(folder: Path) -> list[PublishedPoint]:
    """Read ``paper_curves.csv``; empty where the folder has none.

    Raises:
        StoreError: It does not have the columns that its README names.
    """
    return [
        PublishedPoint(
            task=row["task"],
            metric=row["metric"],
            method=row["method"],
            step=int(row["step"]),
            text=row["value"],
            read_from=row["read_from"],
        )
        for row in _rows(folder / "paper_curves.csv", ("task", "metric", "method", "step", "value"))
    ]


def published_table(folder: Path, grid: str) -> PublishedTable | None:
    """The published rows of a grid; None for a grid that the paper does not have.

    Raises:
        StoreError: As ``published_curves``.
    """
    if grid == "main_table":
        return _main_table(folder)
    if grid == "reward_specific":
        return _last_values(published_curves(folder))
    return None


def _main_table(folder: Path) -> PublishedTable | None:
    rows = _rows(folder / "paper_table.csv", ("model", "iterations", "resolution"))
    if not rows:
        return None
    names = list(rows[0])
    columns = tuple(_HEADS.get(name, name) for name in names)
    return PublishedTable(
        columns=columns, rows=tuple(tuple(row[name] for name in names) for row in rows)
    )


def _last_values(points: Sequence[PublishedPoint]) -> PublishedTable | None:
    if not points:
        return None
    last = max(point.step for point in points)
    panels = list(dict.fromkeys((point.task, point.metric) for point in points))
    value = {(point.method, point.task, point.step): point.text for point in points}
    methods = [method for method in _NAMES.values() if (method, panels[0][0], last) in value]

    def texts(method: str, step: int) -> list[str]:
        return [value[method, task, step] for task, _ in panels]

    rows = [("Base", "0", *texts(methods[0], 0))]
    rows += [(method_title(method), str(last), *texts(method, last)) for method in methods]
    heads = [f"{_HEADS.get(metric, metric)} (task {task})" for task, metric in panels]
    return PublishedTable(columns=("Method", "Steps", *heads), rows=tuple(rows))


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    lacking = set(columns) - set(frame.columns)
    if lacking:
        raise StoreError(
            f"{path} has no column {', '.join(sorted(lacking))}; restore it with "
            f"`git checkout {path}`"
        )
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
