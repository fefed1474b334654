"""A cell as plain JSON: its names, the addresses of its artefacts, and its whole configuration."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from soarbench.common.provenance import STORE_VERSION
from soarbench.common.strict import plain
from soarbench.config.stages import BASE
from soarbench.diagnostics.settings import PROBE_SETTINGS
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.store.artefact import Store
from soarbench.store.cell_record import CellRecord


def describe(cell: CellConfig, cells: Sequence[CellConfig]) -> dict[str, object]:
    """What ``cell.json`` holds, and what reports ask for.

    Args:
        cell: One of them.
        cells: Of the grid: the base is followed on the data of each task's first trained cell.
    """
    task, origin = cell.task, addresses.training(cell)
    return {
        "version": STORE_VERSION,
        "cell_id": addresses.cell_id(cell),
        "grid": cell.grid,
        "task": cell.task_name,
        "method": cell.method_name,
        "title": cell.title,
        "seed": cell.seed,
        "steps": list(cell.steps),
        "final_metric": None if task is None else task.final_metric,
        "oracle_metrics": [] if task is None else list(task.oracle_metrics),
        # The order of a table's columns.
        "metrics": list(dict.fromkeys(n for suite in cell.suites.values() for n in suite.judges)),
        "data_key": None if cell.data is None else addresses.data_key(cell),
        "training": None if origin is None else origin.address,
        "suites": {name: _suite(cell, name) for name in sorted(cell.suites)},
        "paths": {
            addresses.data_key(source): addresses.path_probe(cell, source, PROBE_SETTINGS).address
            for source in followed(cell, cells)
        },
        "config": json.loads(json.dumps(plain(cell))),
    }


def _suite(cell: CellConfig, name: str) -> Mapping[str, object]:
    """A suite's size, and the addresses of what there is of it at every step."""
    suite = cell.suites[name]
    at = {str(step): step for step in cell.steps}
    return {
        "max_prompts": suite.max_prompts,
        "images_per_prompt": suite.images_per_prompt,
        "images": {text: addresses.images(cell, step, suite).address for text, step in at.items()},
        "statistics": {
            text: addresses.image_statistics(cell, step, suite).address for text, step in at.items()
        },
        "scores": {
            judge: {
                text: addresses.scores(cell, step, suite, judge).address
                for text, step in at.items()
            }
            for judge in suite.judges
        },
    }


def followed(cell: CellConfig, cells: Iterable[CellConfig]) -> list[CellConfig]:
    """The trained cells on whose data a cell is probed: itself; of the base one of each task."""
    if cell.method_name != BASE:
        return [cell] if cell.data is not None else []
    sources: dict[str, CellConfig] = {}
    for other in cells:
        if other.data is not None:
            sources.setdefault(other.task_name, other)
    return list(sources.values())


def cell_record(store: Store, description: Mapping[str, object]) -> CellRecord:
    """A described cell's folder in its grid."""
    return CellRecord(store.root / "grids" / str(description["grid"]) / str(description["cell_id"]))
