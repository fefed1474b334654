"""Addresses of artefacts: the digest of exactly what determines each, and of nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from soarbench.common.files import short_digest
from soarbench.common.strict import address_content
from soarbench.config.settings import SuiteConfig
from soarbench.evaluation.protocol import SEED_RULE
from soarbench.evaluation.suites import suite_size
from soarbench.grid.cell import CellConfig
from soarbench.grid.checks import reward_judge

Content = Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Source:
    """An artefact's address, and what that is made of.

    Attributes:
        address: ``KIND/NAME-DIGEST``; the name is for people.
        content: What the digest is of.
        inputs: Addresses of the artefacts that it is made from.
    """

    address: str
    content: Content
    inputs: tuple[str, ...] = ()


def digest(content: Content) -> str:
    """The first 16 digits of the sha256 of sorted JSON."""
    return short_digest(json.dumps(content, sort_keys=True).encode())


def _source(kind: str, name: str, content: Content, inputs: tuple[str, ...]) -> Source:
    return Source(address=f"{kind}/{name}-{digest(content)}", content=content, inputs=inputs)


def training(cell: CellConfig) -> Source | None:
    """A cell's training; None for the base model."""
    if cell.training is None or cell.method is None:
        return None
    parent, inputs = _at(cell.parent, None if cell.parent is None else cell.parent.steps[-1])
    # Not what judges it: another judge trains nothing again. ``address_content`` leaves out where a
    # class lives, and what only changes speed or memory.
    content = {
        "base": _base(cell),
        "method": address_content(cell.method),
        "optim": address_content(cell.optim),
        "lora": address_content(cell.lora),
        "ema": address_content(cell.ema),
        "training": address_content(cell.training),
        **data_content(cell),
        "rewards": {name: [weight, _reward(cell, name)] for name, weight in cell.rewards.items()},
        "seed": cell.seed,
        "parent": parent,
    }
    if cell.reward_scale != "own":
        content["reward_scale"] = cell.reward_scale
        # Other images of the base have another spread.
        content["reward_sampling"] = address_content(cell.reward_sampling)
    return _source("trainings", cell.method.kind, content, inputs)


def _at(cell: CellConfig | None, step: object) -> tuple[object, tuple[str, ...]]:
    """A cell's training at a step, as content and as inputs; without one, null and nothing."""
    origin = None if cell is None else training(cell)
    return (None, ()) if origin is None else ([origin.address, step], (origin.address,))


def _base(cell: CellConfig) -> Content:
    return {"weights": cell.weights_digest, "model": address_content(cell.model)}


def data_content(cell: CellConfig) -> Content:
    """What a cell's training rows are, whatever is trained on them."""
    names = () if cell.data is None else cell.data.select_by
    # The same rows are another choice when another judge makes it.
    selectors = {name: cell.judges[name].identity() for name in names if name in cell.judges}
    return {"data": address_content(cell.data), "selected_by": selectors}


def _reward(cell: CellConfig, name: str) -> object:
    """The judge behind a reward; None for a function, whose dotted path is its name."""
    judge = cell.judges.get(reward_judge(name))
    return None if judge is None else judge.identity()


def images(cell: CellConfig, step: int, suite: SuiteConfig) -> Source:
    """The images of a suite at a step of a cell's training; 0 is the base model."""
    trained, inputs = _at(cell, step)
    content = {
        "base": _base(cell),
        "training": trained,
        # All prompts of the suite: which of them are drawn is the artefact's extent.
        "suite": suite_size(suite)[0],
        "sampling": address_content(cell.sampling),
        "seed_rule": SEED_RULE,
    }
    return _source("images", suite.name, content, inputs)


def scores(cell: CellConfig, step: int, suite: SuiteConfig, judge: str) -> Source:
    """One judge's scores of the images of a suite."""
    judged, config = images(cell, step, suite).address, cell.judges[judge]
    content = {"images": judged, "judge": config.identity()}
    return _source("scores", config.kind, content, (judged,))


def image_statistics(cell: CellConfig, step: int, suite: SuiteConfig) -> Source:
    """Statistics of the images of a suite."""
    measured = images(cell, step, suite).address
    content = {
        "images": measured,
        # The diversity of a prompt depends on how many images it has.
        "max_prompts": suite.max_prompts,
        "images_per_prompt": suite.images_per_prompt,
    }
    return _source("probes", "images", content, (measured,))


def diversity(cell: CellConfig, step: int, suite: SuiteConfig, measure: str) -> Source:
    """How unlike the images of a suite's prompts are, by one measure."""
    statistics = image_statistics(cell, step, suite)
    content = {**statistics.content, "measure": cell.diversity[measure].identity()}
    return _source("probes", cell.diversity[measure].kind, content, statistics.inputs)


def base_states(source: CellConfig, settings: Content) -> Source:
    """States that the base drifts to from the path of held-out images of the data of ``source``.

    ``settings`` are ``diagnostics.settings``'.
    """
    content = {
        "base": _base(source),
        "followed": data_content(source),
        "sampling": address_content(source.sampling),
        "settings": settings,
    }
    return _source("probes", "states", content, ())


def path_probe(cell: CellConfig, source: CellConfig, settings: Content) -> Source:
    """A cell's models on and off the path of the images of ``base_states``.

    ``source`` is the cell itself, but for the base.
    """
    # Velocities are compared step by step, not at equal cost.
    trained, inputs = _at(cell, list(cell.own_steps))
    states = base_states(source, settings).address
    content = {"base": _base(cell), "training": trained, "states": states}
    return _source("probes", "paths", content, (*inputs, states))


def base_loads(cell: CellConfig) -> tuple[object, ...]:
    """What is loaded to train a cell or to draw with it, the base's weights first."""
    return "model", digest(_base(cell)), cell.parent and cell_id(cell.parent)


def loads(cell: CellConfig, step: int) -> tuple[object, ...]:
    """What is loaded to draw with a step's weights."""
    origin = training(cell) if step else None
    return (*base_loads(cell), origin and origin.address, step)


def data_key(cell: CellConfig) -> str:
    """Names a trained cell's data, so that the base can be followed on that of every task."""
    return f"{cell.task_name}-{digest(data_content(cell))}"


def cell_id(cell: CellConfig) -> str:
    """Method, task and seed in words, and the digest of what the cell's weights are."""
    origin = training(cell)
    weights = digest(_base(cell)) if origin is None else origin.address.rpartition("-")[2]
    name = cell.method_name
    words = name if cell.task is None else f"{name}-{cell.task_name}"
    return f"{words}-seed{cell.seed}-{weights[:12]}"
