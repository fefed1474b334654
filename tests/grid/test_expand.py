"""Grids expand into content-addressed cells."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators.vlm.geneval2 import PROMPTS as GENEVAL2
from soarbench.common.errors import ConfigError
from soarbench.common.strict import build
from soarbench.config.registries import suite_named
from soarbench.grid.addresses import cell_id
from soarbench.grid.cell import CellConfig
from soarbench.grid.description import describe
from soarbench.grid.expand import expand, with_digest
from soarbench.models.sd3.config import Sd3Config

#: Parts of a cell that hold configurations by name.
GROUPS = ("suites", "judges", "diversity")


def cells_of(arguments: list[str]) -> list[CellConfig]:
    return list(expand(arguments).cells)


def labels(arguments: list[str]) -> list[str]:
    return [cell.label for cell in cells_of(arguments)]


def test_reward_specific_crosses_methods_tasks_and_seeds(overrides: list[str]) -> None:
    found = labels([*overrides, "seeds=[0,7]"])
    assert found[0] == "base"
    expected = {
        f"{method} {task} seed {seed}"
        for method in ("sft", "soar", "flow_grpo")
        for task in ("aesthetic", "alignment")
        for seed in (0, 7)
    }
    assert set(found[1:]) == expected
    assert len(found) == 1 + 12


def test_main_table_has_base_sft_and_soar(overrides: list[str]) -> None:
    found = cells_of(["grid=main_table", *overrides[1:]])
    assert [cell.label for cell in found] == ["base", "sft general seed 0", "soar general seed 0"]
    judges = {name for suite in found[0].suites.values() for name in suite.judges}
    assert {"geneval", "ocr", "clipscore", "aesthetic"} <= judges


def test_task_and_method_keep_a_part_of_the_grid(overrides: list[str]) -> None:
    arguments = [*overrides, "task=aesthetic", "method=sft,flow_grpo"]
    assert labels(arguments) == ["base", "sft aesthetic seed 0", "flow_grpo aesthetic seed 0"]
    assert labels([*overrides, "method=base"]) == ["base"]


def test_the_base_is_the_same_cell_whatever_is_selected(overrides: list[str]) -> None:
    whole, part = cells_of(overrides)[0], cells_of([*overrides, "task=alignment"])[0]
    assert cell_id(whole) == cell_id(part)
    assert set(whole.suites) == {"lab_drawbench", "lab_geneval"}
    assert whole.steps == (0,)


def test_a_method_value_applies_to_the_methods_that_have_the_key(overrides: list[str]) -> None:
    before = {cell.label: cell for cell in cells_of(overrides)}
    after = {cell.label: cell for cell in cells_of([*overrides, "method.aux_weight=0.5"])}
    changed = {label for label in before if cell_id(before[label]) != cell_id(after[label])}
    assert changed == {"soar aesthetic seed 0", "soar alignment seed 0"}
    assert after["soar aesthetic seed 0"].method == replace(
        before["soar aesthetic seed 0"].method, aux_weight=0.5
    )


def test_same_base_data_steps_and_evaluation_in_all_cells_of_a_task(overrides: list[str]) -> None:
    found = [cell for cell in cells_of(overrides) if cell.task_name == "aesthetic"]
    assert len(found) == 3
    for name in ("model", "sampling", "data", "suites", "seed", "weights_digest"):
        assert len({repr(getattr(cell, name)) for cell in found}) == 1, name
    assert {cell.training.steps for cell in found if cell.training} == {6}


def test_the_address_depends_on_the_content_alone(overrides: list[str], tmp_path: Path) -> None:
    before = cells_of(overrides)
    elsewhere = cells_of(
        [*overrides, f"output_dir={tmp_path / 'other'}", "device=cpu", "tracking=none"]
    )
    assert list(map(cell_id, before)) == list(map(cell_id, elsewhere))
    other = cells_of([*overrides, "optim.learning_rate=0.5"])
    assert set(map(cell_id, before)) & set(map(cell_id, other)) == {cell_id(before[0])}
    assert re.fullmatch(r"sft-aesthetic-seed0-[0-9a-f]{12}", cell_id(before[1]))


def test_other_weights_are_other_cells(overrides: list[str], tmp_path: Path) -> None:
    before = set(map(cell_id, cells_of(overrides)))
    (tmp_path / "model" / "weights.bin").write_bytes(b"new")
    assert not before & set(map(cell_id, cells_of(overrides)))


def test_a_hub_id_is_its_own_digest() -> None:
    model = Sd3Config(name="x", path="org/name", resolution=64, revision="abc")
    assert model.weights_digest() == "org/name@abc"


def test_rewards_become_a_mixture_of_the_reward_method_alone(overrides: list[str]) -> None:
    arguments = [*overrides, "task=aesthetic", "reward={aesthetic:0.7,alignment:0.3}"]
    found = {cell.method_name: cell for cell in cells_of(arguments)}
    assert found["flow_grpo"].rewards == {"aesthetic": 0.7, "alignment": 0.3}
    assert {"aesthetic", "clipscore"} <= set(found["flow_grpo"].judges)
    assert found["sft"].rewards == {}


def test_suites_of_unlike_sizes_cannot_share_a_base(overrides: list[str]) -> None:
    # Only the task alignment calls a suite of its own "geneval".
    shared = [*overrides, "suites.geneval.name=lab_drawbench"]
    assert set(cells_of(shared)[0].suites) == {"lab_drawbench"}
    with pytest.raises(ConfigError, match="different sizes in different tasks"):
        expand([*shared, "suites.geneval.images_per_prompt=1", "suites.geneval.max_prompts=2"])


def test_a_judge_has_one_suite_in_a_task_and_a_suite_one_place(overrides: list[str]) -> None:
    arguments = ["grid=main_table", *overrides[1:]]
    with pytest.raises(ConfigError, match="another suite has that name"):
        expand([*arguments, "suites.ocr.name=lab_geneval"])
    with pytest.raises(ConfigError, match="'geneval' also judges suites"):
        expand([*arguments, "suites.ocr.judges=[ocr,geneval]"])


def test_cell_configurations_survive_json(overrides: list[str]) -> None:
    changes = ["seeds=[5]", "method.guidance_scale=2.5", "sampling.num_inference_steps=7"]
    cells = cells_of([*overrides, *changes])
    assert {cell.seed for cell in cells if cell.task} == {5}
    for cell in cells:
        stored = json.loads(json.dumps(describe(cell, cells)))["config"]
        parts = {entry.name: getattr(cell, entry.name) for entry in dataclasses.fields(cell)}
        for name, part in parts.items():
            if dataclasses.is_dataclass(part):
                assert build(type(part), stored[name], name) == part
            elif name not in (*GROUPS, "parent", "costs", "robustness"):
                assert stored[name] == part
        for name in GROUPS:
            many = getattr(cell, name)
            assert {
                key: build(type(one), stored[name][key], key) for key, one in many.items()
            } == many
        assert stored["sampling"]["num_inference_steps"] == 7


def steps_of(arguments: list[str]) -> dict[str, tuple[int, ...]]:
    return {cell.label: cell.steps for cell in cells_of([*arguments, "seeds=[0]"]) if cell.task}


SHARES = "budget.cost_shares=[1.0]"


def test_every_method_is_evaluated_at_what_the_others_spend(overrides: list[str]) -> None:
    # 6 updates of 32 rows at 3, 22 and 16 forward equivalents: 576, 4,224 and 3,072.
    arguments = [*overrides, "task=aesthetic", SHARES]
    assert steps_of(arguments) == {
        "sft aesthetic seed 0": (3, 6),
        "soar aesthetic seed 0": (1, 3, 4, 6),
        # Two updates share a rollout, which the first one pays for.
        "flow_grpo aesthetic seed 0": (2, 3, 6),
    }
    cells = {cell.method_name: cell for cell in cells_of(arguments)}
    assert cells["soar"].cost_steps == {1: 576.0, 4: 3072.0, 6: 4224.0}
    assert {cells[name].costs for name in ("sft", "soar", "flow_grpo")} == {(576.0, 3072.0, 4224.0)}
    assert cells["base"].steps == (0,)


def test_no_cost_is_compared_at_an_average_of_nothing(overrides: list[str]) -> None:
    def flow_grpo(*more: str) -> tuple[int, ...]:
        words = [*overrides, "task=aesthetic", SHARES, "training.steps=20", *more]
        return steps_of(words)["flow_grpo aesthetic seed 0"]

    # SFT spends as much as 3.75 updates of Flow-GRPO.
    assert flow_grpo("ema.every=4") == (4, 10, 20)
    # At four updates the average would hold three of them, and be charged for all.
    assert flow_grpo("ema.every=3") == (6, 10, 20)
    assert flow_grpo("ema.every=5") == (10, 20)
    message = (
        r"ema\.every=11: nothing has been averaged yet at the first snapshot, step 10; use .*10"
    )
    with pytest.raises(ConfigError, match=message):
        flow_grpo("ema.every=11")


def test_costs_are_those_of_the_grid_whatever_is_selected(overrides: list[str]) -> None:
    arguments = [*overrides, "task=aesthetic", SHARES, "method.aux_weight=0.5"]
    whole = steps_of(arguments)
    assert steps_of([*arguments, "method=[soar]"]) == {
        name: steps for name, steps in whole.items() if name.startswith("soar")
    }
    # A value that no selected method has is refused as ever.
    with pytest.raises(ConfigError, match=r"method\.aux_weight"):
        expand([*arguments, "method=[sft]"])


def test_a_second_stage_has_paid_for_its_first_before_it_begins(overrides: list[str]) -> None:
    arguments = ["grid=soar_then_grpo", *overrides[1:], "task=aesthetic", SHARES]
    assert steps_of(arguments) == {
        "sft aesthetic seed 0": (3, 6),
        # 3,648 of SFT, then Flow-GRPO, are 5.2 of SOAR's updates of 704.
        "soar aesthetic seed 0": (1, 3, 5, 6),
        # 4,224 of SOAR are 7.1 updates of 512 after the 576 of SFT: more than it has.
        "sft_then_flow_grpo aesthetic seed 0": (3, 6),
        "soar_then_flow_grpo aesthetic seed 0": (3, 6),
    }
    further = steps_of([*arguments, "budget.costs=[2000,5000]"])
    assert further["sft_then_flow_grpo aesthetic seed 0"] == (2, 3, 6)
    assert further["soar_then_flow_grpo aesthetic seed 0"] == (2, 3, 6)
    assert further["soar aesthetic seed 0"] == (1, 3, 5, 6)


def test_shares_and_further_costs_are_settings(overrides: list[str]) -> None:
    arguments = [*overrides, "task=aesthetic", "method=[soar]"]
    assert steps_of(arguments)["soar aesthetic seed 0"] == (3, 6)
    half = steps_of([*arguments, "budget.cost_shares=[0.5]"])
    assert half["soar aesthetic seed 0"] == (2, 3, 6)
    assert steps_of([*arguments, "budget.costs=[1408]"])["soar aesthetic seed 0"] == (2, 3, 6)
    # Less than half an update is nothing yet, and more than all of it is no step.
    assert steps_of([*arguments, "budget.costs=[300,9000]"])["soar aesthetic seed 0"] == (3, 6)
    for word in ("budget.cost_shares=[0.0]", "budget.cost_shares=[1.5]", "budget.costs=[-1]"):
        with pytest.raises(ConfigError, match=word.partition("=")[0]):
            expand([*arguments, word])


def test_other_prompts_in_the_place_of_geneval_2s_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOARBENCH_CACHE", str(tmp_path))
    suite = suite_named("geneval2")
    assert with_digest(suite) == suite
    GENEVAL2.path.parent.mkdir(parents=True)
    GENEVAL2.path.write_text('{"prompt": "a cat"}\n')
    with pytest.raises(ConfigError, match=r"is not the published file .* fetch geneval2` brings"):
        with_digest(suite)
