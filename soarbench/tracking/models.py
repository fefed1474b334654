"""Checkpoints as MLflow 3's LoggedModels: searchable, with metrics that name their dataset.

Weights are named by their address in the output directory; none is copied, as one may take 9 GB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric

from baselines.loop.checkpoints import snapshot_path
from soarbench.store.cells import Cell
from soarbench.store.facts import metric_facts
from soarbench.store.tables import StoredTables
from soarbench.tracking import views
from soarbench.tracking.datasets import suites

#: What MLflow refuses in a model's name.
_REFUSED = re.compile(r"[/:.%\"']")
MODEL_TYPE = "checkpoint"


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The LoggedModels of a cell's run.

    Attributes:
        experiment: Id; so is ``run_id``.
        tags: That tell whose they are: those of the run.
        digest: Of what is told; another telling replaces them, as MLflow changes no metric.
    """

    client: MlflowClient
    experiment: str
    run_id: str
    tags: Mapping[str, str]
    digest: str

    def log(self, cell: Cell, params: Mapping[str, str], stamp: int) -> list[Metric]:
        """Make those that are missing. -> Their metrics, of ``stamp`` milliseconds and later."""
        stored = self._stored()
        models = {step: stored.get(step) or self._new(cell, step, params) for step in cell.steps}
        run = self.client.get_run(self.run_id)
        linked = {one.model_id for one in run.outputs.model_outputs} if run.outputs else set()
        outputs = [
            LoggedModelOutput(model.model_id, step)
            for step, model in models.items()
            if model.model_id not in linked
        ]
        if outputs:
            self.client.log_outputs(self.run_id, outputs)
        return list(_metrics(cell, {step: one.model_id for step, one in models.items()}, stamp))

    def finish(self) -> None:
        """Call them ready: all their metrics are there."""
        for model in self._stored().values():
            if model.status != LoggedModelStatus.READY:
                self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def _stored(self) -> dict[int, LoggedModel]:
        """Those of this telling by step; others, and doubles of a lost answer, are deleted."""
        stored: dict[int, LoggedModel] = {}
        text = f"source_run_id = '{self.run_id}'"
        for model in found_models(self.client, self.experiment, text):
            step = int(model.tags["step"])
            if step in stored or model.tags["telling"] != self.digest:
                self.client.delete_logged_model(model.model_id)
            else:
                stored[step] = model
        return stored

    def _new(self, cell: Cell, step: int, params: Mapping[str, str]) -> LoggedModel:
        weights = weights_address(cell, step)
        where = ", in the output directory" if step else ""
        tags = {
            **self.tags, **_decision(cell, step), "step": str(step), "telling": self.digest,
            "weights": weights,
            "mlflow.note.content": f"Weights: `{weights}`{where}.",
        }  # fmt: skip
        return self.client.create_logged_model(
            self.experiment,
            name=_REFUSED.sub("-", f"{cell.label} step {step}").replace(" ", "-"),
            source_run_id=self.run_id,
            tags=tags,
            params=dict(params),
            model_type=MODEL_TYPE,
        )


def _decision(cell: Cell, step: int) -> dict[str, str]:
    """What a registry asks: whether this is the end, and which score decides; none of the base."""
    judged = {judge: facts for (_, judge), facts in cell.protocols().items()}
    if cell.final_metric not in judged:
        return {}
    sign = metric_facts(cell.final_metric, judged[cell.final_metric], cell.cell_id).sign
    is_last = str(step == cell.steps[-1]).lower()
    return {"final_metric": cell.final_metric, "sign": str(sign), "is_last": is_last}


def found_models(client: MlflowClient, experiment: str, text: str) -> Iterator[LoggedModel]:
    """All checkpoints of an experiment that a filter chooses."""
    token = None
    while True:
        page = client.search_logged_models([experiment], text, page_token=token)
        yield from (model for model in page if model.model_type == MODEL_TYPE)
        token = page.token
        if not token:
            return


def weights_address(cell: Cell, step: int) -> str:
    """Where a step's weights lie: a folder below the output directory, or the base model."""
    assert isinstance(cell.tables, StoredTables), "an export is not logged"
    address, store = cell.description["training"], cell.tables.store
    if address is None or step == 0:
        model = cell.config.get("model")
        return str(model.get("path") if isinstance(model, Mapping) else model)
    return snapshot_path(store.artefact(address).root, step).relative_to(store.root).as_posix()


def _metrics(cell: Cell, models: Mapping[int, str], stamp: int) -> Iterator[Metric]:
    """Every score of a checkpoint, and the one that each judge is known by, under its name."""
    datasets = suites(cell)
    for score in views.scores(cell):
        data, at = datasets[score.suite], stamp + score.step
        place = (models[score.step], data.name, data.digest)
        for key, value in score.numbers.items():
            yield Metric(f"{score.prefix}/{key}", value, at, score.step, *place)
        if score.headline is not None:
            yield Metric(score.judge, score.headline, at, score.step, *place)
