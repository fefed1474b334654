"""Every YAML makes a valid configuration; what cannot work is refused in one line."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest

from baselines.config import TrainingConfig
from soarbench.common.errors import ConfigError, UserError
from soarbench.common.plugins import conf_folders
from soarbench.common.strict import Component, imported
from soarbench.config.compose import parse_overrides, run_settings
from soarbench.config.settings import SamplingConfig, SuiteConfig
from soarbench.grid.expand import expand

YAMLS = sorted(
    str(path.relative_to(folder.path).with_suffix(""))
    for folder in conf_folders()
    for path in folder.path.rglob("*.yaml")
)
#: Chosen by a method and a model together, not by name.
TASK_OF_SUITE = {
    "lab_drawbench": "aesthetic",
    "lab_geneval_alignment": "alignment",
    "lab_geneval": "general",
    "lab_ocr": "general",
    "lab_drawbench_preference": "general",
    "drawbench": "aesthetic",
    "drawbench_preference": "general",
    "geneval": "general",
    "ocr": "general",
}
MODEL_OF_BUDGET = {"published": "sd35_medium"}
#: Stands for a training set that lies on no test machine's disk.
ANY_DATA = "data=lab_general"


def test_there_are_yamls() -> None:
    assert len(YAMLS) > 40
    assert {"config", "model/lab", "data/lab_general", "suite/lab_ocr"} <= set(YAMLS)


@pytest.mark.parametrize("name", YAMLS)
def test_every_yaml_composes_and_makes_its_dataclass(name: str) -> None:
    group, _, option = name.partition("/")
    if name == "config":
        settings = run_settings(["grid=reward_specific"])
    elif group == "recipe":
        model, _, method = option.partition("/")
        settings = run_settings([f"model={model}", "budget=quick", ANY_DATA])
        (cell, *_) = [
            cell
            for cell in expand(
                [*grid_with(method), f"model={model}", "model.path=org/name", ANY_DATA]
            ).cells
            if cell.method_name == method
        ]
        assert cell.training is not None
    elif group == "protocol":
        model, _, task = option.partition("/")
        plan = expand([f"grid={grid_of_task(task)}", f"model={model}", "method=base", ANY_DATA])
        assert plan.settings.model.name == model
        settings = plan.settings
    elif group in ("model", "budget"):
        model = option if group == "model" else MODEL_OF_BUDGET.get(option, "lab")
        settings = run_settings([f"model={model}", f"{group}={option}", ANY_DATA])
    elif group in ("method", "task"):
        grid = grid_with(option) if group == "method" else [f"grid={grid_of_task(option)}"]
        plan = expand([*grid, "model.path=org/name", f"{group}={option}"])
        assert plan.cells
        settings = plan.settings
    elif group == "suite":
        model = "lab" if option.startswith("lab_") else "sd35_medium"
        grid = f"grid={grid_of_task(TASK_OF_SUITE[option])}"
        plan = expand([grid, f"model={model}", "model.path=org/name", ANY_DATA])
        name = option.removesuffix("_preference").removesuffix("_alignment")
        assert all(suite.evaluators for cell in plan.cells for suite in cell.suites.values())
        assert any(name in cell.suites for cell in plan.cells)
        settings = plan.settings
    else:
        settings = run_settings([f"{group}={option}"])
    assert dataclasses.is_dataclass(settings)


def grid_with(method: str) -> list[str]:
    grid = "main_table" if method in ("base", "sft", "soar") else "reward_specific"
    return [f"grid={grid}"]


def grid_of_task(task: str) -> str:
    return "main_table" if task == "general" else "reward_specific"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["lab", "sd35_medium", "sd35_large"])
def test_every_target_exists_and_takes_its_arguments(model: str) -> None:
    settings = run_settings([f"model={model}", ANY_DATA])
    assert settings.evaluators
    for name, component in settings.evaluators.items():
        check_component(component, name)


def check_component(component: Component, name: str) -> None:
    target = imported(component.target, name)
    assert callable(target)
    inspect.signature(target).bind(**component.options)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["method.aux_wieght=1"], "did you mean 'method.aux_weight'"),
        (["method.aux_weight=much"], "method.aux_weight='much' must be a number"),
        (["method.aux_weight=-1"], "aux_weight = -1.0"),
        (["method=dpo"], "method='dpo' does not exist: choose one of base, flow_grpo, sft, soar"),
        (["task=beauty"], "task='beauty' does not exist"),
        (["task=general"], "task='general' is not part of grid 'reward_specific'"),
        (["budget=quik"], "budget='quik' does not exist: did you mean 'quick'?"),
        (["budget.steps=many"], "budget.steps='many' must be an integer"),
        (["budget.steps=0"], "steps=0"),
        (["seeds=[]"], "seeds=[]: give different non-negative integers"),
        (["seeds=[1,1]"], "seeds=[1, 1]"),
        (["seeds=a"], "seeds[0]='a' must be an integer"),
        (["figure_formats=[pdf]"], "png must be among them"),
        (["figure_formats=[gif]"], "must be one of png, pdf, svg"),
        (["grid.checkpoint_rule=best"], "must be last, or best:NAME"),
        (["seeds=[0"], "is not an override: write key=value"),
        (["budget"], "is not an override: write key=value"),
        (["device=tpu"], "device='tpu': must be auto, cpu, cuda or cuda:N"),
        (["model.path=/nowhere/model"], "model.path=/nowhere/model: no model_index.json there"),
        (["model.path=./nowhere"], "model.path=./nowhere: no model_index.json there"),
        (["model.dtype=int8"], "model.dtype='int8'"),
        (["reward=beauty"], "reward='beauty' does not exist: choose one of"),
        (["reward=no_such_module.f"], "no module 'no_such_module' can be found"),
        (["reward=null", "task=aesthetic"], "has no reward, which flow_grpo needs"),
        (["training.save_steps=3"], "multiple of the method's updates_per_collection=2"),
        (["training.batch_size=31"], "multiple of the method's group_size=8"),
        (["training.num_snapshots=7"], "must be at most training.steps=6"),
        (["suites.drawbench.name=lab_drawbnch"], "did you mean 'lab_drawbench"),
        (["suites.drawbench.evaluators=[beauty]"], "'beauty' does not exist"),
        (["suites.drawbench.evaluators=[clipscore]"], "decides by 'aesthetic', which no suite"),
        (["suites.drawbench.images_per_prompt=0"], "images_per_prompt=0: must be at least 1"),
        (["data.select_by=[beauty]"], "data.select_by: 'beauty' does not exist"),
        (["data.keep_fraction=2"], "data.keep_fraction=2.0: must be in (0, 1]"),
        (["grid.tasks=[beauty]"], "grid.tasks: 'beauty' does not exist"),
        (["grid.methods=[]"], "name each once, and at least one"),
        (["+method.new=1"], "keys cannot be added or removed"),
        (["~seeds"], "keys cannot be added or removed"),
        (["method.aux_weight=0,1"], "only method and task take several values"),
        (["suite=lab_ocr"], "there is no key 'suite' here; did you mean 'suites'"),
        (["evaluators.ocr._target_=3"], "evaluators.ocr"),
    ],
)
def test_bad_input_is_one_line_that_names_value_and_remedy(
    overrides: list[str], extra: list[str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        expand([*overrides, *extra])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_grid_the_grids_are_listed() -> None:
    listed = r"name a grid.*grid=main_table.*grid=reward_specific.*grid=soar_then_grpo"
    with pytest.raises(ConfigError, match=listed):
        expand([])


def test_several_methods_or_tasks_are_read_as_a_list_or_a_sweep() -> None:
    assert parse_overrides(["method=sft,soar"]).axes == {"method": ("sft", "soar")}
    assert parse_overrides(["method=[sft,soar]"]).axes == {"method": ("sft", "soar")}
    assert parse_overrides(["task=aesthetic"]).axes == {"task": ("aesthetic",)}


def test_snapshots_are_evenly_spaced_and_end_at_the_last_step() -> None:
    config = TrainingConfig(steps=10, batch_size=1, save_steps=5, num_snapshots=3)
    assert config.snapshot_steps == (3, 7, 10)


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=0: must be at least 1"):
        SamplingConfig(num_inference_steps=1, guidance_scale=1.0, batch_size=0)
    with pytest.raises(ValueError, match="max_prompts=0: must be at least 1"):
        SuiteConfig(name="a", evaluators=("b",), max_prompts=0)


def test_a_directory_without_a_pipeline_is_named(overrides: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no model_index\.json there; give a directory saved by"):
        expand([*overrides, f"model.path={tmp_path}"])


def test_a_published_judge_takes_its_own_keys() -> None:
    words = ["grid=reward_specific", "model=sd35_medium", ANY_DATA, "task=alignment"]
    usual, changed = (
        expand([*words, *more]).cells[-1] for more in ([], ["evaluators.clipscore.weights=/w"])
    )
    assert usual.evaluators["clipscore"].options == {"judge": "clipscore"}
    assert changed.evaluators["clipscore"].options == {"judge": "clipscore", "weights": "/w"}
    assert usual.cell_id != changed.cell_id


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("evaluators.clipscore.wights=/w", "'evaluators.clipscore.wights': did you mean 'weights'"),
        ("evaluators.clipscore.batch_size=0", "must be at least 1"),
        (
            "evaluators.clipscor.weights=/w",
            "here; did you mean 'evaluators.clip",
        ),
    ],
)
def test_what_a_published_judge_does_not_take_is_refused(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(["grid=reward_specific", "model=sd35_medium", ANY_DATA, word])


def test_a_judge_of_the_laboratory_takes_no_keys() -> None:
    with pytest.raises(ConfigError, match=r"there is no key 'evaluators\.geneval\.detector'"):
        expand(["grid=main_table", "evaluators.geneval.detector=/w"])


def test_a_method_is_not_made_another_under_its_name() -> None:
    words = [
        "grid=reward_specific",
        "method=sft",
        "method._target_=baselines.soar_config.SoarConfig",
    ]
    with pytest.raises(ConfigError, match=r"method\._target_=.*: a method's class goes by its nam"):
        expand(words)
