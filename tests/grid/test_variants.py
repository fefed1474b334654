"""Variants: methods with settings of their own, under names of their own."""

from __future__ import annotations

import dataclasses
import functools
import re

import pytest

from baselines.sft_config import SftConfig
from baselines.soar_config import SoarConfig
from soarbench.common.errors import ConfigError
from soarbench.config.keys import UnknownKeyError
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.grid.description import describe
from soarbench.grid.expand import Grid, expand
from soarbench.planning.demand import PlanOptions, read_request

WORDS = ["grid=ablation", "budget=standard", "seeds=[0]", "task=general"]


@functools.cache
def cells_of(*words: str) -> dict[str, CellConfig]:
    return {cell.method_name: cell for cell in expand([*WORDS, *words]).cells}


def varied(fields: str, *words: str, base: str = "grid=main_table") -> Grid:
    return expand([base, "task=general", f"grid.variants={{probed: {{{fields}}}}}", *words])


def test_a_variant_is_the_method_with_those_settings_alone() -> None:
    cells = cells_of()
    soar, fresh = cells["soar"], cells["soar_fresh_noise"]
    assert isinstance(soar.method, SoarConfig)
    assert fresh.method == dataclasses.replace(soar.method, shared_noise=False)
    # With the model's own recipe of the method, not with the published values.
    assert (fresh.optim, fresh.ema, fresh.training) == (soar.optim, soar.ema, soar.training)
    assert soar.optim is not None
    assert soar.optim.learning_rate == 3e-4
    assert fresh.title == "SOAR with fresh noise"
    assert addresses.cell_id(fresh).startswith("soar_fresh_noise-general-seed0-")
    assert addresses.training(fresh) != addresses.training(soar)


def test_a_grid_with_variants_trains_the_methods_of_other_grids_once() -> None:
    other = {cell.method_name: cell for cell in expand(["grid=main_table", *WORDS[1:]]).cells}
    cells = cells_of()
    for name in ("base", "sft", "soar"):
        assert addresses.cell_id(cells[name]) == addresses.cell_id(other[name])


def test_every_control_is_another_training() -> None:
    cells = [cell for cell in cells_of().values() if cell.method is not None]
    assert len({addresses.cell_id(cell).rpartition("-")[2] for cell in cells}) == len(cells) == 15
    # The six points that are one without re-noising weigh what they weighed.
    still = cells_of()["soar_no_renoising"].method
    assert isinstance(still, SoarConfig)
    assert still.aux_weight * still.num_aux_points == 6


def test_a_cost_is_another_methods_to_the_nearest_step() -> None:
    cells = cells_of()
    for words, steps in (([], 1467), (["method.num_aux_points=2", "training.steps=30"], 100)):
        long, soar = (cells_of(*words)[name] for name in ("sft_at_soar_cost", "soar"))
        costs = []
        for cell in (long, soar):
            assert cell.training is not None
            assert cell.method is not None
            costs.append(cell.training.steps * cell.training.update_cost(cell.method))
        assert long.training is not None
        assert long.training.steps == steps
        assert abs(costs[0] - costs[1]) <= 3 * 32 / 2
    assert cells["sft_at_soar_cost"].method == SftConfig()


def test_a_cost_is_met_by_whole_collections() -> None:
    fields = "of: flow_grpo, title: X, cost_of: soar"
    words = ["grid.methods=[soar,probed]", "reward=aesthetic", "training.steps=33"]
    long = varied(fields, *words).cells[-1]
    assert long.training is not None
    assert long.method is not None
    assert long.training.steps % 2 == 0
    update = long.training.update_cost(long.method)
    # A collection is of two updates, so that the nearest is at most one away.
    assert abs(long.training.steps * update - 33 * 32 * 22) <= update


def test_a_variant_wins_over_the_command_line_and_factors_take_its_value() -> None:
    cells = cells_of("method.guidance_scale=2", "method.aux_weight=0.5")
    soar, plain, still = (
        cells[name].method for name in ("soar", "soar_no_guidance", "soar_no_renoising")
    )
    assert isinstance(soar, SoarConfig)
    assert isinstance(plain, SoarConfig)
    assert isinstance(still, SoarConfig)
    assert (soar.guidance_scale, plain.guidance_scale) == (2, 1)
    assert still.aux_weight == 3
    fields = "of: sft, title: X, factors: ['optim.learning_rate=1/3']"
    grid = varied(fields, "grid.methods=[probed]")
    optim = grid.cells[-1].optim
    assert optim is not None
    assert optim.learning_rate == 1e-4


def test_a_second_stage_starts_from_a_variant() -> None:
    words = ["grid.methods=[soar_no_guidance_then_flow_grpo]", "reward=aesthetic"]
    cells = cells_of(*words)
    assert list(cells) == ["base", "soar_no_guidance", "soar_no_guidance_then_flow_grpo"]
    second = cells["soar_no_guidance_then_flow_grpo"]
    assert second.title == "SOAR without guidance → Flow-GRPO"
    assert second.parent == cells["soar_no_guidance"]


def test_the_speed_of_a_variant_is_its_methods_by_cost() -> None:
    run = expand([*WORDS, "method=sft_more_points,soar_no_guidance"]).settings
    rates = run.budget.rates.seconds_per_step
    assert rates["sft_more_points/general"] == pytest.approx(7 * rates["sft"])
    assert rates["soar_no_guidance/general"] == pytest.approx(rates["soar"] * 21 / 22)
    published = expand(
        ["grid=ablation", "model=sd35_medium", "method=soar_no_guidance"]
    ).settings.budget
    seconds = [
        published.rates.step_seconds("soar_no_guidance", t) for t in ("general", "aesthetic")
    ]
    assert seconds == pytest.approx([60.8 * 21 / 22, 3.8 * 21 / 22])


def test_plans_and_selections_know_variants() -> None:
    assert list(cells_of("method=soar_on_path")) == ["base", "soar_on_path"]
    request = read_request(PlanOptions(), [*WORDS, "model=sd35_medium", "method=sft_at_soar_cost"])
    assert request.steps == {"sft_at_soar_cost": 1467}


def test_descriptions_say_of_what_a_variant_is_a_trial() -> None:
    assert {cell.trial_of for cell in cells_of().values()} == {None}
    cells = cells_of("grid.selects=true", "method=sft,soar,soar_on_path")
    origins = {name: cell.trial_of for name, cell in cells.items()}
    assert origins == {"base": None, "sft": "sft", "soar": "soar", "soar_on_path": "soar"}
    last = cells["soar_on_path"]
    assert describe(last, [last])["trial_of"] == "soar"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grid.variants={sft: {of: soar, title: X}}"], "sft: a method has that name"),
        (["grid.variants={x: {of: base, title: X}}"], "x: without settings it is the base"),
        (["grid.variants={x: {of: bas, title: X}}"], "of='bas': did you mean 'base'"),
        (["grid.variants={a_then_b: {of: sft, title: X}}"], "no _then_"),
        (["grid.variants={../x: {of: sft, title: X}}"], "name of folders"),
        (["grid.variants={x: {of: sft, title: X, cost_of: x}}"], "has no cost of its own"),
        (["grid.variants={x: {of: sft, title: X, cost_of: base}}"], "has no cost of its own"),
        (["grid.variants={x: {of: sft}}"], "grid.variants.x.title is missing"),
    ],
)
def test_a_variant_that_cannot_be_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(["grid=main_table", *words])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("settings: ['method.num_pints=3']", "grid.variants.probed: .*did you mean.*num_points"),
        ("settings: ['method.num_points=0']", "num_points = 0"),
        ("factors: ['optim.learning_rate=fast']", "is no factor, write 3 or 1/3"),
        ("factors: ['optim.learning_rate=1/0']", "is no factor"),
        ("factors: ['optim.optimizer=2']", "optim.optimizer='adamw' is no number"),
    ],
)
def test_a_setting_of_a_variant_that_cannot_be_is_refused(fields: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        varied(f"of: sft, title: X, {fields}", "grid.methods=[probed]")


def test_several_values_are_variants_beside_what_lacks_the_setting() -> None:
    plain, cells = names_of("budget=quick"), names_of("budget=quick", "method.aux_weight=0.5,1.0")
    assert list(cells) == ["base", "sft", "soar_aux_weight_0.5", "soar_aux_weight_1.0"]
    assert [cell.title for cell in cells.values()][1:] == [
        "SFT", "SOAR aux_weight=0.5", "SOAR aux_weight=1.0",
    ]  # fmt: skip
    for name in ("base", "sft"):
        assert describe(cells[name], []) == describe(plain[name], [])
    # What the recipe says is trained once, whatever it is called.
    same, other = (addresses.training(cells[f"soar_aux_weight_{w}"]) for w in ("1.0", "0.5"))
    assert same == addresses.training(plain["soar"]) != other
    run = expand(["grid=main_table", "method.aux_weight=0.5,1.0", "seeds=[0]"]).settings
    seconds = run.budget.rates.step_seconds
    assert seconds("soar_aux_weight_0.5", "general") == seconds("soar", "general") > 0


def names_of(*words: str, base: str = "grid=main_table") -> dict[str, CellConfig]:
    return {one.method_name: one for one in expand([base, "seeds=[0]", *words]).cells}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        # A product, of the selected methods and of those settings alone that each has.
        (
            ["method=soar,sft", "method.aux_weight=0.5,1", "optim.learning_rate=1e-5,3e-4"],
            [
                "sft_learning_rate_1e-05", "sft_learning_rate_0.0003",
                "soar_aux_weight_0.5_learning_rate_1e-05",
                "soar_aux_weight_0.5_learning_rate_0.0003",
                "soar_aux_weight_1_learning_rate_1e-05", "soar_aux_weight_1_learning_rate_0.0003",
            ],
        ),
        (["method.off_path=true,false", "method=soar"],
         ["soar_off_path_true", "soar_off_path_false"]),
        # Of two values of one setting the last one counts, as ever.
        (["method.aux_weight=0.5,1", "method.aux_weight=2"], ["sft", "soar"]),
        # A list needs no brackets, and is no choice; of lists there can be one.
        (["method=sft", "optim.betas=0.9,0.99"], ["sft"]),
        (["method=sft", "optim.betas=[0.9,0.99],[0.8,0.9]"],
         ["sft_betas_0.9_0.99", "sft_betas_0.8_0.9"]),
        # Both stages stand at the same value.
        (
            ["grid.methods=[sft_then_soar]", "optim.learning_rate=1e-5,3e-4"],
            [
                "sft_learning_rate_1e-05", "sft_learning_rate_1e-05_then_soar_learning_rate_1e-05",
                "sft_learning_rate_0.0003",
                "sft_learning_rate_0.0003_then_soar_learning_rate_0.0003",
            ],
        ),
        (["grid.baseline=soar_aux_weight_1", "method.aux_weight=0,1", "method=soar"],
         ["soar_aux_weight_0", "soar_aux_weight_1"]),
    ],
)  # fmt: skip
def test_which_variants_several_values_make(words: list[str], names: list[str]) -> None:
    assert list(names_of(*words)) == ["base", *names]


def test_variants_of_variants_and_the_baseline_among_them() -> None:
    words = ["method=soar,soar_no_renoising", "method.aux_weight=0.5,1", "task=general"]
    grid = expand(["grid=ablation", "seeds=[0]", *words])
    assert grid.settings.grid.baseline == "soar_aux_weight_0.5"
    weights = {}
    for cell in grid.cells:
        if isinstance(cell.method, SoarConfig):
            weights[cell.method_name] = cell.method.aux_weight
    # The factor of the variant is one of the value.
    assert weights == {
        "soar_aux_weight_0.5": 0.5, "soar_aux_weight_1": 1,
        "soar_no_renoising_aux_weight_0.5": 3, "soar_no_renoising_aux_weight_1": 6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=sft", "method.aux_weight=0.5,1"], "there is no key 'method.aux_weight' here"),
        (["method.aux_weight=0.5,.5"], "method.aux_weight=0.5,0.5: name each value once"),
        (["method.aux_weight=0.5,-1"], "aux_weight = -1.0 is not possible"),
        (["grid.baseline=soar", "grid.methods=[sft,soa]", "optim.betas=[0,0],[0,1]"], "'soa' does"),
        (
            ["method.aux_weight=1,2,3,4,5,6,7,8", "method.num_aux_points=1,2,3,4,5"],
            "8 of method.aux_weight x 5 of method.num_aux_points values make 40 methods",
        ),
        (["optim.weight_decay=" + ",".join(map(str, range(17)))], "make 34 methods"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_variants_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        names_of(*words)
    assert len(str(caught.value)) <= 300


def test_a_plan_has_a_column_for_each_value() -> None:
    words = ["method=soar", "method.num_aux_points=2,6", "model=sd35_medium"]
    demands = read_request(PlanOptions(), ["grid=main_table", *words]).demands
    points = {name: vars(one.method)["num_aux_points"] for name, one in demands.items()}
    assert points == {"soar_num_aux_points_2": 2, "soar_num_aux_points_6": 6}


def test_a_key_of_a_variant_alone_is_none_of_the_command_line() -> None:
    with pytest.raises(UnknownKeyError):
        expand(["grid=main_table", "method=sft", "method.aux_weight=0.5"])
