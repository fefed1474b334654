"""Published values: printed beside measured ones, never among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from soarbench.common.errors import StoreError
from soarbench.report.numbers.names import BASE, method_title

AS_PUBLISHED = "as published"
#: Model and resolution of the published numbers; ours of others are not to be read beside them.
PUBLISHED_MODEL = ("sd35_medium", 512)
#: Grids that the paper has values for.
PUBLISHED_GRIDS = ("main_table", "reward_specific", "anchors", "ablation")
SOURCE = "arXiv:2604.12617, SD3.5-Medium at 512 px"
#: The published tables' own headings, by the columns of ``published_rows.csv``.
_HEADS = {
    "model": "Model", "iterations": "Steps",
    "geneval": "GenEval", "ocr": "OCR", "pickscore": "PickScore", "clipscore": "CLIPScore",
    "hpsv21": "HPSv2.1", "aesthetic": "Aesthetic", "imagereward": "ImageReward",
    "resolution": "Resolution", "cfg": "Guidance", "source": "Published in",
}  # fmt: skip
_METHODS = ("sft", "soar", "flow_grpo")
#: Rows of ``published_rows.csv`` that are of a model trained by a method, or of the base.
_MODELS = {
    BASE: "SD3.5-M",
    "base_no_guidance": "SD3.5-M without guidance",
    "public_flow_grpo_geneval": "SD3.5-M + Flow-GRPO (GenEval)",
    "public_flow_grpo_ocr": "SD3.5-M + Flow-GRPO (OCR)",
    "public_flow_grpo_pickscore": "SD3.5-M + Flow-GRPO (PickScore)",
    "public_diffusion_nft": "SD3.5-M + DiffusionNFT (several rewards)",
    "sft": "SD3.5-M + SFT",
    "soar": "SD3.5-M + SOAR",
    "soar_stochastic_branch": "SOAR, stochastic branch",
    "soar_fresh_branch": "SOAR, stochastic branch, fresh noise a path",
}
_ANCHORS = (
    *(
        BASE,
        "base_no_guidance",
        "public_flow_grpo_geneval",
        "public_flow_grpo_ocr",
        "public_flow_grpo_pickscore",
    ),
    "public_diffusion_nft",
)
#: The paper's Table 3, after the two rows that it is read against.
_ABLATION = (BASE, "sft", "soar", "soar_stochastic_branch", "soar_fresh_branch")
#: Columns that a published table has; UnifiedReward's scale is another one in every paper.
_SHOWN = [name for name in _HEADS if name != "model"]


@dataclass(frozen=True, kw_only=True)
class PublishedPoint:
    """One value of the paper's curves.

    Attributes:
        task: What was optimised.
        metric: What was measured.
        text: The number as published; there is no interval.
        read_from: ``text``, or ``vector`` where it is a coordinate of the authors' figure.
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


def published_head(metric: str, task: str | None = None) -> str:
    """The published heading of a metric; with its task where several have a column."""
    head = _HEADS.get(metric, metric)
    return head if task is None else f"{head} (task {task})"


def published_curves(folder: Path) -> list[PublishedPoint]:
    """Read ``paper_curves.csv``; empty without it, ``StoreError`` without its README's columns."""
    columns = ["task", "metric", "method", "step", "value", "read_from"]
    frame = _read(folder / "paper_curves.csv", columns)
    return [
        PublishedPoint(
            task=task, metric=metric, method=method, step=int(step), text=value, read_from=read_from
        )
        for task, metric, method, step, value, read_from in frame[columns].to_numpy().tolist()
    ]


def published_table(folder: Path, grid: str) -> pd.DataFrame | None:
    """The published rows of a grid, as text with the columns of their source in their order.

    None for a grid that the paper does not have; ``StoreError`` as ``published_curves``.
    """
    if grid == "reward_specific":
        return _last_values(published_curves(folder))
    if grid not in PUBLISHED_GRIDS:
        return None
    frame = _published_rows(folder)
    known = {"anchors": _ANCHORS, "ablation": _ABLATION}.get(grid)
    if known is not None:
        frame = frame[frame["row"].isin([_MODELS[name] for name in known])]
    else:
        frame = frame[~frame["row"].str.startswith("SOAR,")]
    if frame.empty:
        return None
    papers, certainty = frame["source"].str.partition(",")[0], frame["certainty"]
    marked = papers + certainty.map({"table": ""}).fillna(" (notes)")
    frame = frame.assign(source=marked)[["row", *_SHOWN]].reset_index(drop=True)
    return frame.rename(columns={"row": _HEADS["model"], **_HEADS})


def published_scores(folder: Path, grid: str, task: str, metric: str) -> dict[str, float]:
    """Published values of a metric at the end of training, by method; empty without any."""
    if grid == "reward_specific":
        points = [p for p in published_curves(folder) if (p.task, p.metric) == (task, metric)]
        # All curves start from the base, and are in the order of their steps: the last one stays.
        return {BASE if one.step == 0 else one.method: one.value for one in points}
    if grid not in PUBLISHED_GRIDS or (grid == "ablation" and task != "general"):
        return {}
    frame = _published_rows(folder)
    if metric not in frame:
        return {}
    values = dict(zip(frame["row"], frame[metric], strict=True))
    named = {name: values.get(row) for name, row in _MODELS.items()}
    return {name: float(value) for name, value in named.items() if value}


def _published_rows(folder: Path) -> pd.DataFrame:
    return _read(folder / "published_rows.csv", ["row", *_SHOWN, "certainty"])


def _last_values(points: Sequence[PublishedPoint]) -> pd.DataFrame | None:
    """The base and the ends of the curves, whose table the paper does not print."""
    if not points:
        return None
    last = max(point.step for point in points)
    panels = list(dict.fromkeys((point.task, point.metric) for point in points))
    text = {(point.method, point.task, point.step): point.text for point in points}
    methods = [method for method in _METHODS if (method, panels[0][0], last) in text]
    rows = [(method_title(BASE), "0", *(text[methods[0], task, 0] for task, _ in panels))]
    rows += [
        (method_title(method), str(last), *(text[method, task, last] for task, _ in panels))
        for method in methods
    ]
    heads = [published_head(metric, task) for task, metric in panels]
    return pd.DataFrame(rows, columns=["Method", "Steps", *heads], dtype=object)


def _read(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A file of published values as texts; empty where there is none."""
    if not path.is_file():
        return pd.DataFrame(columns=list(columns))
    # As texts: 0.300 and 0.3 claim different precision.
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    lacking = set(columns) - set(frame.columns)
    if lacking:
        raise StoreError(
            f"{path} has no column {', '.join(sorted(lacking))}; restore it with "
            f"`git checkout {path}`"
        )
    return frame
