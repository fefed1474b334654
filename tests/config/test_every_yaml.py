"""Every YAML composes, and what it says is what the settings hold, in the class that it names."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from omegaconf import OmegaConf

from soarbench.common.plugins import conf_folders
from soarbench.config.composition import compose_choices
from soarbench.config.folders import options
from soarbench.config.settings import Settings
from soarbench.grid.expand import expand

#: By name, in our own folder and in those of plug-ins.
YAMLS = {
    str(path.relative_to(folder.path).with_suffix("")): path
    for folder in reversed(conf_folders())
    for path in sorted(folder.path.rglob("*.yaml"))
}
#: Where the settings hold several options of one group, by names of their own.
SEVERAL = {"suite": "suites", "judge": "judge", "diversity": "diversity"}
#: A model without recipes, so that nothing overrules a method's own values.
NO_RECIPES = "bare"
FOLDERS = conf_folders([str(Path(__file__).parent / "bare")])
ANY_DATA = "data=lab_general"


def choices_of(group: str, option: str) -> list[str]:
    """A composition that holds a YAML's values as they are."""
    first, _, second = option.partition("/")
    if group == "config":
        return ["grid=reward_specific"]
    if group == "recipe":
        method, _, task = second.partition("/")
        tasks = [f"task={task}"] if task else []
        return ["grid=reward_specific", ANY_DATA, f"model={first}", f"method={method}", *tasks]
    if group == "protocol" and not second:
        return ["grid=reward_specific", f"protocol={option}"]
    if group == "protocol":
        return ["grid=reward_specific", f"model={first}", f"task={second}"]
    # The laboratory's protocols leave a task as it is written, but for what decides it.
    model = "lab" if group == "task" else NO_RECIPES
    base = {"grid": "reward_specific", "model": model, "data": "lab_general"}
    if group in SEVERAL:
        more = [f"+{group}@{SEVERAL[group]}.probed={option}"]
        return [*(f"{name}={value}" for name, value in base.items()), *more]
    return [f"{name}={value}" for name, value in {**base, group: option}.items()]


def part_of(settings: Settings, group: str) -> tuple[object, object]:
    """The part of the settings that a group's options are for, and its annotated type."""
    if group not in SEVERAL:
        return getattr(settings, group), get_type_hints(Settings)[group]
    _, kind = get_args(get_type_hints(Settings)[SEVERAL[group]])
    return getattr(settings, SEVERAL[group])["probed"], kind


def as_written(made: object) -> object:
    """Settings in the form of YAML, with the class that each part is of."""
    if hasattr(made, "target") and hasattr(made, "options"):
        return {"_target_": made.target, **made.options}
    if dataclasses.is_dataclass(made):
        values = {entry.name: getattr(made, entry.name) for entry in dataclasses.fields(made)}
        return {"_target_": f"{type(made).__module__}.{type(made).__qualname__}", **values}
    return list(made) if isinstance(made, tuple) else made


def differences(written: object, made: object, key: str) -> list[str]:
    """Keys whose value in the settings is another than the one written."""
    held = as_written(made)
    if isinstance(written, Mapping):
        if not isinstance(held, Mapping):
            return [key]
        return [
            difference
            for name, value in written.items()
            for difference in differences(value, held.get(name, "missing"), f"{key}.{name}")
        ]
    if isinstance(written, str) and written.startswith("${"):
        return [key] if "${" in str(held) else []
    return [] if held == written else [f"{key}: {written!r} became {held!r}"]


def test_there_are_yamls() -> None:
    assert len(YAMLS) > 20
    groups = {name.partition("/")[0] for name in YAMLS} - {"config"}
    assert {f"{group}/{option}" for group in groups for option in options(group)} | {
        "config"
    } == set(YAMLS)


@pytest.mark.parametrize("name", YAMLS)
def test_settings_hold_what_a_yaml_says_in_their_class(name: str) -> None:
    group, _, option = name.partition("/")
    settings = compose_choices(choices_of(group, option), FOLDERS).settings()
    path = YAMLS[name]
    written = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(written, dict)
    written.pop("defaults", None)
    if group == "task":
        written.pop("final_metric", None)
    made: object = settings
    if group in SEVERAL or hasattr(settings, group):
        made, kind = part_of(settings, group)
        assert isinstance(made, kind)  # type: ignore[arg-type]
        assert (made is None) == (name == "method/base")
    if "@package _global_" in path.read_text():
        made = settings
    assert differences(written, made, name) == []


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        *(("sft", "SftConfig"), ("soar", "SoarConfig"), ("flow_grpo", "FlowGrpoConfig")),
        *((f"flow_grpo_{preset}", "FlowGrpoConfig") for preset in ("fast", "cps", "nocfg")),
        *(("diffusion_nft", "DiffusionNftConfig"), ("awm", "AwmConfig")),
        *(("best_of_group", "BestOfGroupConfig"), ("online_dpo", "OnlineDpoConfig")),
    ],
)
def test_a_method_is_the_one_it_is_called(method: str, kind: str) -> None:
    settings = compose_choices(choices_of("method", method), FOLDERS).settings()
    assert type(settings.method).__name__ == kind


@pytest.mark.parametrize(
    ("grid", "model"),
    [
        *itertools.product(options("grid"), ("lab", "sd35_medium")),
        # Their protocols are of the same tasks, each of which composes with them above.
        *(("main_table", model) for model in sorted({*options("model")} - {"lab", "sd35_medium"})),
    ],
)
def test_every_grid_expands_with_every_model(grid: str, model: str) -> None:
    words = [f"grid={grid}", f"model={model}", "model.path=org/name", ANY_DATA]
    plan = expand(words)
    assert plan.settings.model.name == model
    assert plan.settings.grid.name == grid
    methods = {cell.method_name for cell in plan.cells}
    assert methods >= {"base", *plan.settings.grid.methods}
    untrained = {"base", *plan.settings.grid.untrained}
    assert all((cell.training is None) == (cell.method_name in untrained) for cell in plan.cells)
    assert all(
        suite.images_per_prompt >= 1 for cell in plan.cells for suite in cell.suites.values()
    )
