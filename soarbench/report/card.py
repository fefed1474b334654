"""The card of a trained model: what it scores, how sure, by which protocol, and what made it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from soarbench import __version__
from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.panels import build_panels
from soarbench.report.numbers.tables import TaskTable, build_tables
from soarbench.report.page.sources import protocols
from soarbench.report.text.markdown import task_markdown
from soarbench.store.cells import Cell, Launch
from soarbench.store.tables import Facts

#: Of a configuration: what makes the weights, without places on the machine that made them.
_SETTINGS = ("method", "optim", "lora", "ema", "training", "data", "rewards", "sampling")
_PLACES = ("path", "cache_dir")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def card_text(
    cell: Cell, cells: Sequence[Cell], *, baseline: str, licence: str, weights: Path, place: str
) -> str:
    """A card for the hub, of a cell's last step.

    Args:
        cell: Finished.
        cells: Of its grid, finished, whose launches name no folder of a machine.
        baseline: Method that it is compared with; the base if it is that itself.
        licence: Of the base model, as the hub writes it.
        weights: Folder of the snapshot.
        place: Of the weights on the hub, for the examples.
    """
    beside = (BASE, baseline, cell.method)
    members = [
        one
        for one in cells
        if one.is_base
        or ((one.task, one.seed) == (cell.task, cell.seed) and one.method in beside)
    ]  # fmt: skip
    panels, holes = build_panels(members)
    against = BASE if baseline == cell.method else baseline
    (table,) = build_tables(members, panels, holes, baseline=against)
    card = {
        "metadata": _metadata(cell, table, licence).to_yaml().strip(),
        "title": f"{table.title(cell.method)}, task {cell.task}",
        "about": _about(cell, table),
        "table": task_markdown(table),
        "notes": [*table.findings(), *table.notes()],
        "seed": cell.seed,
        "step": cell.steps[-1],
        "usage": _usage(cell, weights, place),
        "spent": ", ".join(f"{v:,.0f} {k.replace('_', ' ')}" for k, v in cell.budget.items()),
        "settings": yaml.safe_dump(_settings(cell), sort_keys=False, allow_unicode=True),
        "launches": [_line(launch) for launch in cell.launches],
        "protocols": protocols(members, [table]),
        "version": __version__,
    }
    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "page" / "templates"),
        # Markdown, of our own words and the run's settings.
        autoescape=False,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return jinja.get_template("model_card.md.j2").render(card=card)


def base_of(cell: Cell) -> str:
    """The base model: a hub id, a folder, or the laboratory's name."""
    model = cell.config["model"]
    assert isinstance(model, Mapping)
    return str(model["path"])


def _base_name(cell: Cell) -> str:
    """As ``base_of``, but for a folder of somebody's machine: that has a name in the settings."""
    model, base = cell.config["model"], base_of(cell)
    assert isinstance(model, Mapping)
    return base if is_hub_id(base) else str(model["name"])


def is_hub_id(base: str) -> bool:
    """Whether the base is a repository of the hub, and no folder."""
    return _HUB_ID.fullmatch(base) is not None and not Path(base).exists()


def _metadata(cell: Cell, table: TaskTable, licence: str) -> ModelCardData:
    (row,) = [row for row in table.rows if row.method == cell.method]
    results = [
        EvalResult(
            task_type="text-to-image", dataset_type=table.suites[name],
            dataset_name=table.suites[name], metric_type=name,
            metric_name=table.facts[name].title, metric_value=estimate.interval.estimate,
        )
        for name, estimate in row.estimates.items()
        if estimate.interval is not None
    ]  # fmt: skip
    is_adapter, base = cell.config.get("lora") is not None, base_of(cell)
    return ModelCardData(
        model_name=cell.cell_id, license=licence, pipeline_tag="text-to-image",
        library_name="peft" if is_adapter else "diffusers", tags=["soarbench", cell.method],
        eval_results=results, base_model=base if is_hub_id(base) else None,
    )  # fmt: skip


def _about(cell: Cell, table: TaskTable) -> str:
    kind = "A LoRA adapter for" if cell.config.get("lora") else "All weights of the transformer of"
    task = cell.config["task"]
    assert isinstance(task, Mapping)
    return (
        f"{kind} `{_base_name(cell)}`, trained by {table.title(cell.method)} for {cell.steps[-1]} "
        f"updates on task *{cell.task}* ({task['description']}), which "
        f"{table.facts[table.final_metric].title} decides."
    )


def _usage(cell: Cell, weights: Path, place: str) -> str:
    base = base_of(cell)
    named = f'"{base}"' if is_hub_id(base) else f'"DIR"  # of {_base_name(cell)}'
    head = f"from diffusers import DiffusionPipeline\n\nbase = {named}"
    if cell.config.get("lora"):
        body = (
            "pipeline = DiffusionPipeline.from_pretrained(base)\n"
            f'pipeline.transformer = PeftModel.from_pretrained(pipeline.transformer, "{place}")'
        )
        return f"```python\nfrom peft import PeftModel\n{head}\n{body}\n```"
    kind = yaml.safe_load((weights / "config.json").read_text())["_class_name"]
    body = (
        f'transformer = {kind}.from_pretrained("{place}")\n'
        "pipeline = DiffusionPipeline.from_pretrained(base, transformer=transformer)"
    )
    return f"```python\n{head.replace('Pipeline', f'Pipeline, {kind}', 1)}\n{body}\n```"


def _settings(cell: Cell) -> dict[str, object]:
    def without(values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        return {key: without(value) for key, value in values.items() if key not in _PLACES}

    config: Facts = cell.config
    return {name: without(config[name]) for name in _SETTINGS if config.get(name)}


def _line(launch: Launch) -> str:
    return f"{launch.command}  # commit {launch.git_commit}"
