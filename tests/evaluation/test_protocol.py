"""A protocol holds what makes numbers comparable, all of it, and nothing else."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import pytest

from evaluators.base import Evaluator
from soarbench.config.registries import suite_named
from soarbench.config.settings import SuiteConfig
from soarbench.evaluation import protocol as module
from soarbench.evaluation.protocol import fingerprint, image_facts, judge_facts
from soarbench.grid.cell import CellConfig
from soarbench.grid.expand import expand
from tests.fakes import Brightness

OF_IMAGES = {
    "prompts", "seed_rule", "resolution", "num_inference_steps",
    "guidance_scale", "scheduler", "shift", "dtype",
}  # fmt: skip
OF_JUDGES = {
    "evaluator", "evaluator_version", "evaluator_settings", "evaluator_weights", "libraries",
}  # fmt: skip


class Judge(Brightness):
    """A judge of which everything can be chosen."""

    def __init__(self, *, name: str = "j", version: str = "1", limit: int = 1, weights: str = "w"):
        super().__init__()
        self._name, self._version, self._limit, self._weights = name, version, limit, weights

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._version

    @property
    def settings(self) -> Mapping[str, object]:
        return {"limit": self._limit}

    @property
    def weights_hash(self) -> str:
        return self._weights


class Given(NamedTuple):
    """What a protocol is made from."""

    cell: CellConfig
    suite: SuiteConfig
    judge: Evaluator
    scheduler: Mapping[str, object]

    def of_images(self) -> dict[str, object]:
        return image_facts(self.suite, self.cell.model, self.cell.sampling, self.scheduler)

    def facts(self) -> dict[str, object]:
        return {**self.of_images(), **judge_facts(self.judge)}


@pytest.fixture
def given(overrides: list[str]) -> Given:
    (cell, *_) = [cell for cell in expand(overrides).cells if cell.task is not None]
    (suite,) = cell.suites.values()
    return Given(cell, suite, Judge(), {"scheduler": "Euler", "shift": 3.0})


def with_model(**changes: object) -> Callable[[Given], Given]:
    def change(given: Given) -> Given:
        model = replace(given.cell.model, **changes)
        return given._replace(cell=replace(given.cell, model=model))

    return change


def with_sampling(**changes: object) -> Callable[[Given], Given]:
    def change(given: Given) -> Given:
        sampling = replace(given.cell.sampling, **changes)
        return given._replace(cell=replace(given.cell, sampling=sampling))

    return change


def with_suite(**changes: object) -> Callable[[Given], Given]:
    def change(given: Given) -> Given:
        return given._replace(suite=replace(given.suite, **changes))

    return change


def with_judge(**changes: str | int) -> Callable[[Given], Given]:
    return lambda given: given._replace(judge=Judge(**changes))


def with_scheduler(**changes: object) -> Callable[[Given], Given]:
    return lambda given: given._replace(scheduler={**given.scheduler, **changes})


def with_other_prompts(given: Given) -> Given:
    other = suite_named("lab_geneval")
    assert other.name != given.suite.name
    return given._replace(suite=other)


#: A change of each fact but the two that no configuration sets.
CHANGES = {
    "prompts": with_other_prompts,
    "resolution": with_model(resolution=128),
    "dtype": with_model(dtype="bfloat16"),
    "num_inference_steps": with_sampling(num_inference_steps=3),
    "guidance_scale": with_sampling(guidance_scale=9.5),
    "scheduler": with_scheduler(scheduler="Heun"),
    "shift": with_scheduler(shift=1.0),
    "evaluator": with_judge(name="other"),
    "evaluator_version": with_judge(version="2"),
    "evaluator_settings": with_judge(limit=2),
    "evaluator_weights": with_judge(weights="other"),
}


def test_a_protocol_holds_exactly_these_facts(given: Given) -> None:
    assert set(given.facts()) == OF_IMAGES | OF_JUDGES
    assert set(given.of_images()) == OF_IMAGES
    assert set(judge_facts(given.judge)) == OF_JUDGES
    assert set(CHANGES) | {"seed_rule", "libraries"} == OF_IMAGES | OF_JUDGES


@pytest.mark.parametrize("key", CHANGES)
def test_a_change_of_what_is_measured_changes_its_fact_and_the_fingerprint(
    given: Given, key: str
) -> None:
    before, after = given.facts(), CHANGES[key](given).facts()
    assert {name for name in before if before[name] != after[name]} == {key}
    assert fingerprint(before) != fingerprint(after)


def test_what_changes_no_number_is_no_fact(given: Given) -> None:
    # An image's noise is its own, and an artefact's rows are those of any part of the suite.
    parts = [with_suite(max_prompts=2), with_suite(images_per_prompt=7)]
    assert all(change(given).facts() == given.facts() for change in parts)
    others = [
        with_sampling(batch_size=given.cell.sampling.batch_size + 1)(given),
        given._replace(cell=replace(given.cell, seed=given.cell.seed + 1, grid="another")),
    ]
    assert all(other.cell != given.cell for other in others)
    assert all(other.facts() == given.facts() for other in others)


def test_the_versions_of_libraries_are_facts(given: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = given.facts()["libraries"]
    assert isinstance(libraries, dict)
    assert {"torch", "diffusers", "transformers", "pillow"} <= set(libraries)
    assert libraries["torch"] == importlib.metadata.version("torch")
    before = fingerprint(given.facts())
    monkeypatch.setattr(module, "library_versions", lambda: {**libraries, "torch": "0.0"})
    assert fingerprint(given.facts()) != before


def test_the_fingerprint_is_of_every_fact_in_any_order(given: Given) -> None:
    facts = given.facts()
    assert fingerprint(facts) == fingerprint(dict(reversed(facts.items())))
    shorter = [{name: facts[name] for name in facts if name != key} for key in facts]
    assert len({fingerprint(part) for part in [facts, *shorter]}) == 1 + len(facts)
