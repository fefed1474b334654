"""What an address depends on, and above all what it does not depend on."""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable, Sequence

import pytest

from baselines.flow_grpo_config import FlowGrpoConfig
from soarbench.common.strict import address_content
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.grid.description import by_samplers
from soarbench.grid.expand import expand


@pytest.fixture
def arguments(overrides: list[str]) -> list[str]:
    return [*overrides, "task=aesthetic"]


def cell_of(arguments: Sequence[str], method: str = "soar") -> CellConfig:
    (cell,) = [cell for cell in expand(arguments).cells if cell.method_name == method]
    return cell


def every_address(cell: CellConfig) -> dict[str, str]:
    """Of the first step and suite; the training's under ``training``."""
    (suite, *_), step = cell.suites.values(), cell.own_steps[0]
    origin = addresses.training(cell)
    assert origin is not None
    return {
        "training": origin.address,
        "images": addresses.images(cell, step, suite).address,
        **{
            f"scores {name}": addresses.scores(cell, step, suite, name).address
            for name in suite.judges
        },
        "paths": addresses.path_probe(cell, cell, {}).address,
    }


def test_a_scale_of_rewards_is_in_the_address_once_it_is_set(arguments: list[str]) -> None:
    words = [*arguments, "reward={aesthetic:1,alignment:2}", "method=flow_grpo"]
    own, named, base = (
        cell_of([*words, *more], "flow_grpo")
        for more in ([], ["reward_scale=own"], ["reward_scale=base"])
    )
    assert every_address(own) == every_address(named)
    assert not set(every_address(own).values()) & set(every_address(base).values())
    # What uses no reward is trained as before.
    soar = [cell_of([*arguments, *more]) for more in ([], ["reward_scale=base"])]
    assert every_address(soar[0]) == every_address(soar[1])


NO_NUMBER = [
    "training.micro_batch_size=1",
    "training.gradient_checkpointing=true",
    "training.compile=true",
    "training.num_workers=3",
    "training.logging_steps=2",
    "training.save_steps=6",
    "training.save_minutes=0.5",
    "sampling.batch_size=5",
    "task.description=words",
    "budget.images_per_prompt=7",
    "budget.cost_shares=[0.5,1.0]",
    "budget.costs=[700]",
    "budget.max_prompts=2",
    "method.aux_chunk=3",
    "device=cpu",
    "diagnostics=false",
    "robustness.enabled=true",
    "grid.baseline=soar",
    "suites.drawbench.judges=[aesthetic,oracle_aesthetic,clipscore]",
]


@pytest.mark.parametrize("word", NO_NUMBER)
def test_what_changes_no_number_changes_no_address(arguments: list[str], word: str) -> None:
    changed = every_address(cell_of([*arguments, word]))
    for name, address in every_address(cell_of(arguments)).items():
        assert changed[name] == address, name


TRAINING = [
    "method.aux_weight=0.5",
    "optim.learning_rate=0.001",
    "optim.schedule=cosine",
    "training.batch_size=8",
    "budget.steps=8",
    "budget.num_snapshots=3",
    "training.mixed_precision=bf16",
    "data.seed=7",
    "data.select_by=[clipscore]",
    "seeds=[3]",
    "model.resolution=32",
    "model.dtype=bfloat16",
]


@pytest.mark.parametrize("word", TRAINING)
def test_what_training_depends_on_changes_every_address(arguments: list[str], word: str) -> None:
    before, after = (every_address(cell_of(words)) for words in (arguments, [*arguments, word]))
    assert not set(before.values()) & set(after.values())


def test_a_setting_that_came_later_is_in_addresses_where_it_is_set() -> None:
    before, after = (address_content(FlowGrpoConfig(rollout_batch_size=n)) for n in (None, 32))
    assert after == {**before, "rollout_batch_size": 32}
    assert "rollout_batch_size" not in before


@pytest.mark.parametrize(
    "word",
    ["sampling.num_inference_steps=7", "sampling.guidance_scale=2.5", "sampling.state_noise=0.2"],
)
def test_sampling_changes_images_and_scores_and_no_training(
    arguments: list[str], word: str
) -> None:
    before, after = (every_address(cell_of(words)) for words in (arguments, [*arguments, word]))
    assert before.pop("training") == after.pop("training")
    assert not set(before.values()) & set(after.values())


def test_a_scale_of_rewards_is_of_what_the_sampler_draws(arguments: list[str]) -> None:
    words = [*arguments, "method=flow_grpo", "reward_scale=base", "robustness.enabled=true"]
    before, after = (
        cell_of([*words, f"sampling.num_inference_steps={count}"], "flow_grpo") for count in (5, 7)
    )
    assert not set(every_address(before).values()) & set(every_address(after).values())
    # Further samplers draw with the weights that are there.
    for one in by_samplers(before, [before]):
        assert addresses.training(one) == addresses.training(before)
    words.append("sampling.batch_size=5")
    assert every_address(cell_of(words, "flow_grpo")) == every_address(
        cell_of(words[:-1], "flow_grpo")
    )


def test_the_base_is_one_artefact_for_all_grids_and_tasks(overrides: list[str]) -> None:
    cells = [
        cell_of([f"grid={name}", *overrides[1:]], "base")
        for name in ("reward_specific", "soar_then_grpo")
    ]
    for name in cells[0].suites:
        first, second = (addresses.images(cell, 0, cell.suites[name]).address for cell in cells)
        assert first == second
    assert addresses.cell_id(cells[0]) == addresses.cell_id(cells[1])


def test_a_second_stage_depends_on_its_first(overrides: list[str]) -> None:
    words = ["grid=soar_then_grpo", *overrides[1:], "task=aesthetic"]
    before, after = (
        cell_of([*words, *extra], "soar_then_flow_grpo")
        for extra in ([], ["method.aux_weight=0.5"])
    )
    assert before.parent is not None
    first = addresses.training(before.parent)
    second = addresses.training(before)
    assert first is not None
    assert second is not None
    assert second.inputs == (first.address,)
    assert every_address(before)["training"] != every_address(after)["training"]


def moved(instance: object) -> object:
    """The same value, of a class of another name in another module."""
    kind = type(instance)
    module = types.ModuleType("elsewhere")
    sys.modules["elsewhere"] = module
    renamed = dataclasses.dataclass(frozen=True, kw_only=True)(
        type(f"Renamed{kind.__name__}", (kind,), {"__module__": "elsewhere"})
    )
    values = {entry.name: getattr(instance, entry.name) for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    made: object = renamed(**values)
    return made


def replaced(cell: CellConfig, name: str) -> CellConfig:
    value = getattr(cell, name)
    if isinstance(value, dict):
        changed: object = {key: moved(item) for key, item in value.items()}
    else:
        changed = moved(value)
    return dataclasses.replace(cell, **{name: changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name",
    ["method", "optim", "training", "data", "model", "sampling", "judges", "suites", "task"],
)
def test_moving_or_renaming_a_class_changes_no_address(arguments: list[str], name: str) -> None:
    cell = cell_of(arguments)
    assert every_address(replaced(cell, name)) == every_address(cell)


def test_no_address_holds_a_class_path_or_a_folder_of_this_machine(
    arguments: list[str], tmp_path: object
) -> None:
    cell = cell_of(arguments)
    (suite, *_) = cell.suites.values()
    sources: list[Callable[[], addresses.Source | None]] = [
        lambda: addresses.training(cell),
        lambda: addresses.images(cell, cell.steps[0], suite),
        lambda: addresses.scores(cell, cell.steps[0], suite, suite.judges[0]),
    ]
    for source in sources:
        made = source()
        assert made is not None
        text = repr(made.content)
        assert "soarbench." not in text
        assert "baselines." not in text
        assert "evaluators." not in text
        assert str(tmp_path) not in text


def test_all_methods_of_a_task_are_asked_at_the_same_states(arguments: list[str]) -> None:
    cells = [cell_of(arguments, method) for method in ("sft", "soar")]
    assert len({addresses.base_states(cell, {}).address for cell in cells}) == 1
    (states,) = {addresses.base_states(cell, {}).address for cell in cells}
    assert all(states in addresses.path_probe(cell, cell, {}).inputs for cell in cells)
    other = cell_of([*arguments, "sampling.num_inference_steps=7"])
    assert addresses.base_states(other, {}).address != states
