"""A protocol holds what makes numbers comparable, all of it, and nothing else."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pytest

from soarbench.config.registries import suite_named
from soarbench.config.settings import SamplingConfig, SuiteConfig
from soarbench.evaluation import protocol as module
from soarbench.evaluation.protocol import fingerprint, image_facts, judge_facts
from soarbench.grid.expand import expand
from soarbench.models.base import ModelConfig

OF_IMAGES = {
    "prompts", "seed_rule", "resolution", "num_inference_steps",
    "guidance_scale", "scheduler", "shift", "dtype",
}  # fmt: skip
OF_JUDGES = {
    "evaluator", "evaluator_version", "evaluator_settings", "evaluator_weights", "libraries",
}  # fmt: skip


@dataclass(frozen=True)
class Judge:
    """What a protocol asks an evaluator for."""

    name: str = "judge"
    version: str = "1"
    settings: Mapping[str, object] = field(default_factory=lambda: {"limit": 1})
    weights_hash: str = "abc"


class Given(NamedTuple):
    """What a protocol is made from."""

    suite: SuiteConfig
    model: ModelConfig
    sampling: SamplingConfig
    judge: Judge
    scheduler: Mapping[str, object]

    def of_images(self) -> dict[str, object]:
        return image_facts(self.suite, self.cell.model, self.cell.sampling, self.scheduler)

    def facts(self) -> dict[str, object]:
        made = image_facts(self.suite, self.model, self.sampling, self.scheduler)
        return {**made, **judge_facts(self.judge)}


@pytest.fixture
def given(overrides: list[str]) -> Given:
    (cell, *_) = [cell for cell in expand(overrides).cells if cell.task is not None]
    (suite,) = cell.suites.values()
    return Given(suite, cell.model, cell.sampling, Judge(), {"scheduler": "Euler", "shift": 3.0})


def with_(part: str, **changes: object) -> Callable[[Given], Given]:
    return lambda given: given._replace(**{part: replace(getattr(given, part), **changes)})


def with_scheduler(**changes: object) -> Callable[[Given], Given]:
    return lambda given: given._replace(scheduler={**given.scheduler, **changes})


def with_other_prompts(given: Given) -> Given:
    other = suite_named("lab_geneval")
    assert other.name != given.suite.name
    return given._replace(suite=other)


#: A change of each fact but the two that no configuration sets.
CHANGES = {
    "prompts": lambda given: given._replace(suite=suite_named("lab_ocr")),
    "resolution": with_("model", resolution=128),
    "dtype": with_("model", dtype="bfloat16"),
    "num_inference_steps": with_("sampling", num_inference_steps=3),
    "guidance_scale": with_("sampling", guidance_scale=9.5),
    "scheduler": with_scheduler(scheduler="Heun"),
    "shift": with_scheduler(shift=1.0),
    "evaluator": with_("judge", name="other"),
    "evaluator_version": with_("judge", version="2"),
    "evaluator_settings": with_("judge", settings={"limit": 2}),
    "evaluator_weights": with_("judge", weights_hash="other"),
}


def test_a_protocol_holds_exactly_these_facts(given: Given) -> None:
    assert set(given.facts()) == OF_IMAGES | OF_JUDGES
    assert set(image_facts(given.suite, given.model, given.sampling, given.scheduler)) == OF_IMAGES
    assert set(judge_facts(given.judge)) == OF_JUDGES
    assert set(CHANGES) | {"seed_rule", "libraries"} == OF_IMAGES | OF_JUDGES


@pytest.mark.parametrize("key", CHANGES)
def test_a_change_of_what_is_measured_changes_its_fact_and_the_fingerprint(
    given: Given, key: str
) -> None:
    before, after = given.facts(), CHANGES[key](given).facts()
    assert {name for name in before if before[name] != after[name]} == {key}
    assert fingerprint(before) != fingerprint(after)


@pytest.mark.parametrize(
    "change",
    [
        with_("sampling", batch_size=99),
        with_("suite", images_per_prompt=7),
        with_("suite", max_prompts=2),
    ],
    ids=["batch", "images", "prompts"],
)
def test_what_changes_no_number_is_no_fact(given: Given, change: Callable[[Given], Given]) -> None:
    assert change(given) != given
    assert change(given).facts() == given.facts()


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


def test_how_much_of_a_prompt_is_read_is_a_fact_where_there_is_an_encoder_of_long_ones(
    given: Given,
) -> None:
    text = {"max_sequence_length": 256, "load_text_encoder_3": True}
    with_t5 = with_("model", **text)(given).facts()
    assert with_t5 == {**given.facts(), **text}
    without = with_("model", max_sequence_length=256)(given).facts()
    assert fingerprint(without) not in (fingerprint(with_t5), fingerprint(given.facts()))


def test_noise_in_the_states_is_a_fact_where_there_is_some(given: Given) -> None:
    noisy = with_("sampling", state_noise=0.2)(given).facts()
    assert noisy == {**given.facts(), "state_noise": 0.2}
