"""What runs read, as MLflow's datasets: the training data, and the prompts of each suite."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from soarbench.store.cells import Cell
from soarbench.store.tables import Facts

#: Digits of a suite's sha256: MLflow keeps 36 letters of a digest.
_DIGITS = 16


def dataset_inputs(cell: Cell) -> list[DatasetInput]:
    """The data that a cell was trained on, if it was, and the suites that it was judged on."""
    datasets = [(suite, "evaluation") for suite in suites(cell).values()]
    if cell.data_key is not None:
        datasets.insert(0, (_training_data(cell), "training"))
    return [
        DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, context)])
        for dataset, context in datasets
    ]


def _training_data(cell: Cell) -> Dataset:
    data, name = _section(cell.config, "data"), str(cell.data_key)
    task, _, digest = name.rpartition("-")
    place = data.get("path")
    return _dataset(f"{task} training data", digest, place, dict(data))


def suites(cell: Cell) -> Mapping[str, Dataset]:
    """Every suite of a cell by its name; a part of the prompts is a dataset of its own."""
    datasets = {}
    for name, sha256 in _prompts(cell):
        extent = cell.description["suites"][name]
        part = extent["max_prompts"]
        digest = sha256[:_DIGITS] + ("" if part is None else f"-{part}")
        profile = {key: extent[key] for key in ("max_prompts", "images_per_prompt")}
        own = _section(_section(cell.config, "suites"), name)
        datasets[name] = _dataset(name, digest, own.get("prompts"), profile)
    return datasets


def _prompts(cell: Cell) -> Iterator[tuple[str, str]]:
    """Each suite with the sha256 of its prompts, as its protocols say it."""
    for (suite, _), protocol in cell.protocols().items():
        yield suite, str(protocol["prompts"])


def _section(values: Facts, key: str) -> Facts:
    own = values.get(key)
    return own if isinstance(own, Mapping) else {}


def _dataset(name: str, digest: str, path: object, profile: Facts) -> Dataset:
    # Of what no file holds, such as rows that are drawn, the page shows the settings.
    kind = "local" if path else "code"
    source = {"uri": str(path)} if path else {}
    return Dataset(name, digest, kind, json.dumps(source), profile=json.dumps(profile))
