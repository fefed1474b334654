"""The best checkpoint of a task as a version in MLflow's model registry, on request."""

from __future__ import annotations

from collections.abc import Iterable

from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException

ALIAS = "best"


def register_best(client: MlflowClient, name: str, models: Iterable[LoggedModel]) -> None:
    """Register, for each task, the last checkpoint that the task's deciding metric likes best.

    It becomes a version of ``NAME-TASK``, and takes the alias ``best``; registering twice adds
    nothing.
    """
    for task, own in sorted(_by_task(models).items()):
        best = max(own, key=_score)
        version = _version(client, f"{name}-{task}", best, len(own))
        client.set_registered_model_alias(f"{name}-{task}", ALIAS, version)


def _by_task(models: Iterable[LoggedModel]) -> dict[str, list[LoggedModel]]:
    """The last checkpoint of each trained cell, where the deciding metric was measured."""
    tasks: dict[str, list[LoggedModel]] = {}
    for model in models:
        # A step chosen by the metric that is reported looks too good: last ones alone compete.
        if model.tags.get("is_last") == "true" and _value(model) is not None:
            tasks.setdefault(model.tags["task"], []).append(model)
    return tasks


def _value(model: LoggedModel) -> float | None:
    metric = model.tags.get("final_metric")
    return next((one.value for one in model.metrics or () if one.key == metric), None)


def _score(model: LoggedModel) -> float:
    value = _value(model)
    assert value is not None
    return float(model.tags["sign"]) * value


def _version(client: MlflowClient, name: str, model: LoggedModel, count: int) -> str:
    """The version that is this checkpoint; made, with its registered model, if need be."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for version in client.search_model_versions(f"name = '{name}'"):
        if version.tags.get("model_id") == model.model_id:
            return str(version.version)
    metric = model.tags["final_metric"]
    made = client.create_model_version(
        name,
        model.artifact_location,
        run_id=model.source_run_id,
        model_id=model.model_id,
        tags={"model_id": model.model_id, "weights": model.tags["weights"]},
        description=(
            f"Best of {count} cells of task {model.tags['task']} by {metric} at their last step: "
            f"{_value(model):.4f}, which being the best of them makes look better than it is. "
            f"Weights: `{model.tags['weights']}` in the output directory."
        ),
    )
    return str(made.version)
