"""A cell as plain JSON: its names, the addresses of its artefacts, and its whole configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from soarbench.common.provenance import STORE_VERSION
from soarbench.common.strict import plain
from soarbench.config.settings import SuiteConfig
from soarbench.config.stages import BASE
from soarbench.diagnostics.settings import PROBE_SETTINGS
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.store.artefact import Store
from soarbench.store.cell_record import CellRecord


def describe(cell: CellConfig, cells: Sequence[CellConfig]) -> dict[str, object]:
    """What ``cell.json`` holds, and what reports ask for; ``cells`` are all of the grid's."""
    task, origin = cell.task, addresses.training(cell)
    return {
        "version": STORE_VERSION,
        "cell_id": addresses.cell_id(cell),
        "grid": cell.grid,
        "task": cell.task_name,
        "method": cell.method_name,
        "title": cell.title,
        "trial_of": cell.trial_of,
        "seed": cell.seed,
        "steps": list(cell.steps),
        "final_metric": None if task is None else task.final_metric,
        "oracle_metrics": [] if task is None else list(task.oracle_metrics),
        # The order of a table's columns.
        "metrics": list(dict.fromkeys(n for suite in cell.suites.values() for n in suite.judges)),
        "data_key": None if cell.data is None else addresses.data_key(cell),
        "training": None if origin is None else origin.address,
        "suites": {name: _suite(cell, suite) for name, suite in sorted(cell.suites.items())},
        "paths": {
            addresses.data_key(source): addresses.path_probe(cell, source, PROBE_SETTINGS).address
            for source in followed(cell, cells)
        },
        **_robustness(cell, cells),
        # Through JSON, so that it equals what is read back.
        "config": json.loads(json.dumps(plain(cell))),
    }


def _suite(cell: CellConfig, suite: SuiteConfig) -> Mapping[str, object]:
    """A suite's size, and the addresses of what there is of it at every step."""

    def at(source_of: Callable[..., addresses.Source], *judge: str) -> dict[str, str]:
        return {str(step): source_of(cell, step, suite, *judge).address for step in cell.steps}

    facts: dict[str, object] = {
        "max_prompts": suite.max_prompts,
        "images_per_prompt": suite.images_per_prompt,
        "images": at(addresses.images),
        "statistics": at(addresses.image_statistics),
        "scores": {judge: at(addresses.scores, judge) for judge in suite.judges},
    }
    # Not where there is none: descriptions of cells without stay as they are.
    if measures := cell.measures(suite):
        facts["diversity"] = {name: at(addresses.diversity, name) for name in measures}
    return facts


def _robustness(cell: CellConfig, cells: Iterable[CellConfig]) -> dict[str, object]:
    """The scores of the last step by every sampler, the usual one first; empty without others."""
    if not cell.robustness:
        return {}
    step = cell.steps[-1]
    samplers = [
        {
            "num_inference_steps": one.sampling.num_inference_steps,
            "state_noise": one.sampling.state_noise or 0.0,
            "guidance_scale": one.sampling.guidance_scale,
            "scores": {
                name: {
                    judge: addresses.scores(one, step, suite, judge).address
                    for judge in suite.judges
                }
                for name, suite in one.suites.items()
            },
        }
        for one in by_samplers(cell, cells)
    ]
    return {"robustness": samplers}


def by_samplers(cell: CellConfig, cells: Iterable[CellConfig]) -> list[CellConfig]:
    """The cell with its own sampler and with each of ``robustness``, judged by what decides.

    That are the deciding metric and the oracles of its task; of the base of every task.
    """
    tasks = [one.task for one in cells if one.task is not None and cell.task in (None, one.task)]
    deciding = {name for task in tasks for name in (task.final_metric, *task.oracle_metrics)}
    suites = {
        key: replace(suite, judges=tuple(name for name in suite.judges if name in deciding))
        for key, suite in cell.suites.items()
        if deciding.intersection(suite.judges)
    }
    samplers = (cell.sampling, *cell.robustness)
    return [replace(cell, sampling=one, suites=suites, robustness=()) for one in samplers]


def followed(cell: CellConfig, cells: Iterable[CellConfig]) -> list[CellConfig]:
    """The trained cells on whose data a cell is probed: itself; of the base one of each task."""
    if cell.method_name != BASE:
        return [cell] if cell.data is not None else []
    # The drift of a method is read against the base's on the same images.
    sources: dict[str, CellConfig] = {}
    for other in cells:
        if other.data is not None:
            sources.setdefault(other.task_name, other)
    return list(sources.values())


def cell_record(store: Store, description: Mapping[str, object]) -> CellRecord:
    """A described cell's folder in its grid."""
    return CellRecord(store.root / "grids" / str(description["grid"]) / str(description["cell_id"]))
