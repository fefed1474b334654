import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from soarbench.report.numbers.budgets import matched_tables, place_at, way
from soarbench.report.numbers.curves import CurvePoint, build_curves
from soarbench.report.numbers.panels import build_panels
from soarbench.report.numbers.tables import build_tables
from soarbench.report.numbers.thresholds import crossings
from soarbench.report.text.frames import csv_text, matched_numbers, threshold_numbers
from soarbench.report.text.markdown import matched_markdown, threshold_markdown
from tests.report.folders import Folder, base, read_cells, reward_specific, write_grid


def point(method, step, value, **spent):
    return CurvePoint(
        task="aesthetic", metric="aesthetic", method=method, step=step, value=value, low=value,
        high=value, num_prompts=4, num_seeds=1, spent=spent,
    )  # fmt: skip


def parts(grid_folder, baseline="sft"):
    cells, holes = read_cells(grid_folder)
    panels, more = build_panels(cells)
    tables = build_tables(cells, panels, [*holes, *more], baseline=baseline)
    return tables, panels, build_curves(cells, panels, tables)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "grid"
    return parts(write_grid(folder, reward_specific(seeds=(0, 1), num_prompts=24)))


def test_a_way_begins_at_the_base():
    points = [
        point("base", 0, 1.0, seconds=0.0),
        point("sft", 20, 3.0, seconds=8.0),
        point("sft", 10, 2.0, seconds=4.0),
    ]
    stops = way(points, "sft")
    assert [(stop.method, stop.spent["step"], stop.spent["seconds"]) for stop in stops] == [
        ("base", 0, 0.0), ("sft", 10, 4.0), ("sft", 20, 8.0),
    ]  # fmt: skip


def test_a_second_stage_pays_for_its_first():
    points = [
        point("base", 0, 1.0, seconds=0.0, reward_calls=0.0),
        point("sft", 20, 2.0, seconds=8.0, reward_calls=0.0),
        point("sft_then_flow_grpo", 10, 3.0, seconds=5.0, reward_calls=7.0),
    ]
    last = way(points, "sft_then_flow_grpo")[-1]
    assert (last.step, last.spent["step"], last.spent["seconds"]) == (10, 30, 13.0)
    assert last.spent["reward_calls"] == 7.0


def test_a_counter_that_the_first_stage_lacks_is_not_made_up():
    points = [
        point("sft", 20, 2.0, seconds=8.0),
        point("sft_then_flow_grpo", 10, 3.0, seconds=5.0, reward_calls=7.0),
    ]
    assert "reward_calls" not in way(points, "sft_then_flow_grpo")[-1].spent


@pytest.mark.parametrize(
    ("level", "before", "after", "share"),
    [(2.0, 0, 10, 0.5), (4.0, 0, 10, 1.0), (7.0, 10, 20, 0.75), (8.0, 10, 20, 1.0)],
)
def test_places_by_hand(level, before, after, share):
    points = [
        point("base", 0, 1.0, seconds=0.0), point("sft", 10, 2.0, seconds=4.0),
        point("sft", 20, 3.0, seconds=8.0),
    ]  # fmt: skip
    found = place_at(way(points, "sft"), "seconds", level)
    assert (found.before.step, found.after.step) == (before, after)
    assert found.share == pytest.approx(share)
    assert found.spent("step") == pytest.approx(before + share * (after - before))
    # Between the base and the first snapshot nothing was measured; a snapshot itself was.
    assert found.is_early == (level == 2.0)


def test_beyond_the_ends_is_no_place():
    points = [point("sft", 10, 2.0, seconds=4.0), point("sft", 20, 3.0, seconds=8.0)]
    stops = way(points, "sft")
    assert place_at(stops, "seconds", 3.9) is None  # the base was not evaluated
    assert place_at(stops, "seconds", 8.1) is None
    assert place_at(stops, "reward_calls", 1.0) is None
    assert place_at([], "seconds", 1.0) is None


def test_levels_are_what_a_method_spent_and_another_reached(grid):
    found = [
        one for one in matched_tables(*grid, "forward_equivalents") if one.table.task == "aesthetic"
    ]
    # 32 images a step for 150 steps at 1, 9 and 30 evaluations; none else reaches the last.
    assert [one.level for one in found] == [4800, 43200]
    assert [one.methods for one in found] == [("sft",), ("soar",)]


def test_where_everyone_ends_the_table_is_the_one_at_the_last_step(grid):
    (found,) = [
        one for one in matched_tables(*grid, "images_seen") if one.table.task == "aesthetic"
    ]
    last = next(table for table in grid[0] if table.task == "aesthetic")
    for row in found.table.rows:
        same = next(one for one in last.rows if one.method == row.method)
        for name, estimate in row.estimates.items():
            assert estimate.interval.estimate == pytest.approx(
                same.estimates[name].interval.estimate
            )
        assert {name: one.verdict for name, one in row.comparisons.items()} == {
            name: one.verdict for name, one in same.comparisons.items()
        }


def test_values_between_snapshots_are_linear_in_the_cost(grid):
    tables, panels, curves = grid
    # SFT ends where SOAR is a third of the way from its second snapshot to its last.
    level = {one.step: one.spent["forward_equivalents"] for one in curves if one.method == "soar"}
    total = level[100] + (level[150] - level[100]) / 3
    curves = [
        replace(one, spent={**one.spent, "forward_equivalents": total * one.step / 150})
        if one.method == "sft"
        else one
        for one in curves
    ]
    found = matched_tables(tables, panels, curves, "forward_equivalents")[0]
    soar = next(row for row in found.table.rows if row.method == "soar")
    ends = {
        one.step: one.value for one in curves if (one.method, one.task) == ("soar", "aesthetic")
    }
    expected = ends[100] + (ends[150] - ends[100]) / 3
    assert soar.estimates["aesthetic"].interval.estimate == pytest.approx(expected)
    assert soar.budget["optimizer_steps"] == pytest.approx(100 + 50 / 3)
    assert soar.budget["forward_equivalents"] == pytest.approx(total)
    assert "soar" not in found.early


def test_between_the_base_and_the_first_snapshot_there_is_a_dash_and_a_reason(grid):
    found = [
        one for one in matched_tables(*grid, "forward_equivalents") if one.table.task == "aesthetic"
    ]
    # 4,800 forward equivalents are a third of the way to SOAR's first snapshot.
    assert found[0].early == ("soar", "flow_grpo")
    soar = next(row for row in found[0].table.rows if row.method == "soar")
    assert (soar.estimates, soar.comparisons, soar.budget) == ({}, {}, {})
    text = matched_markdown(found[:1])
    assert "| SOAR | 2 | - | - | - | - | - | - |" in text
    assert "never spent as much, or spent it before its first snapshot." in text
    assert "SOAR and Flow-GRPO: a dash, since this cost lies between the base and the first" in text
    lines = csv.DictReader(io.StringIO(csv_text(matched_numbers(found[:1]))))
    assert {line["value"] for line in lines if line["method"] != "sft"} == {""}


def test_where_all_were_measured_no_dash_is_explained(grid):
    found = matched_tables(*grid, "images_seen")
    assert all(one.early == () for one in found)
    assert "dash, since" not in matched_markdown(found[:1])


def test_beyond_the_baseline_the_comparison_is_with_who_spent_it_all(grid):
    found = [
        one for one in matched_tables(*grid, "forward_equivalents") if one.table.task == "aesthetic"
    ]
    assert [one.table.baseline for one in found] == ["sft", "soar"]
    rows = {row.method: row for row in found[1].table.rows}
    assert not rows["sft"].estimates
    assert found[1].early == ("flow_grpo",)
    text = matched_markdown(found)
    assert "first stage" not in text
    assert "43,200 forward equivalents: all that SOAR spent" in text
    assert "| SFT | 2 | - | - | - |" in text
    lines = list(csv.DictReader(io.StringIO(csv_text(matched_numbers(found)))))
    assert {line["level"] for line in lines} == {"4800.0", "43200.0"}
    assert len(lines) == 2 * 3 * 2


def test_a_method_in_its_first_stage_is_not_compared_with_it(tmp_path):
    cells = [
        Folder(method=method, task="aesthetic", seed=seed, num_prompts=12)
        for method in ("sft", "soar", "sft_then_flow_grpo", "soar_then_flow_grpo")
        for seed in (0, 1)
    ]
    store = write_grid(tmp_path / "grid", [base(num_prompts=12), *cells])
    found = matched_tables(*parts(store, "sft_then_flow_grpo"), "forward_equivalents")
    compared = [{row.method for row in one.table.rows if row.estimates} for one in found]
    assert compared[0] == {"sft"}
    assert found[0].early == ("soar",)
    assert found[0].methods == ("sft",)
    assert found[0].table.baseline == "sft"
    assert all("sft" not in methods for methods in compared[1:])
    assert matched_markdown(found).count("or was still in its first stage.") == 1


def test_a_task_without_costs_has_no_matched_table(grid):
    tables, panels, curves = grid
    bare = [replace(one, spent={}) for one in curves]
    assert matched_tables(tables, panels, bare, "forward_equivalents") == []


def test_the_baseline_reaches_its_own_value_at_its_end_and_no_later(grid):
    found = {(one.task, one.method): one for one in crossings(*grid, {})}
    sft = found["aesthetic", "sft"]
    assert sft.source == "where SFT ends"
    assert sft.needed["step"] <= 150
    assert sft.share == 1.0
    soar = found["aesthetic", "soar"]
    assert soar.needed["step"] < sft.needed["step"]
    assert soar.low is None  # before the first snapshot
    assert soar.needed["step"] <= soar.high
    assert soar.needed["forward_equivalents"] == pytest.approx(32 * 9 * soar.needed["step"])


def test_a_chosen_threshold_by_hand(grid):
    tables, panels, curves = grid
    line = sorted(
        (one.step, one.value)
        for one in curves
        if one.task == "aesthetic" and one.method in ("base", "soar")
    )
    middle = (line[1][1] + line[2][1]) / 2
    found = crossings(tables, panels, curves, {"aesthetic": middle})
    soar = next(one for one in found if (one.task, one.method) == ("aesthetic", "soar"))
    assert soar.needed["step"] == pytest.approx(75)
    assert soar.source == "chosen"


def test_a_crossing_before_the_first_snapshot_is_a_dash_with_a_reason(grid):
    tables, panels, curves = grid
    ends = {
        one.step: one.value
        for one in curves
        if one.task == "aesthetic" and one.method in ("base", "soar")
    }
    found = crossings(tables, panels, curves, {"aesthetic": (ends[0] + ends[50]) / 2})
    soar = next(one for one in found if (one.task, one.method) == ("aesthetic", "soar"))
    assert soar.is_reached
    assert soar.is_early
    assert soar.needed == {}
    # Where the base itself reaches it, and after the first snapshot, resamples are measured.
    assert (soar.low, soar.high > 50) == (0, True)
    assert f"| SOAR | - [0, {soar.high:.0f}] | - | - | - | - | 100 % |" in threshold_markdown(
        [soar]
    )
    text = threshold_markdown([replace(soar, low=None, high=None)])
    assert "| SOAR | - | - | - | - | - | 100 % |" in text
    assert "A dash for steps lies between the base and the first snapshot." in text
    (line,) = csv.DictReader(io.StringIO(csv_text(threshold_numbers([soar]))))
    assert (line["reached"], line["step"], line["steps_low"]) == ("True", "", "0.0")


def test_what_the_base_reaches_already_was_measured(grid):
    found = crossings(*grid, {"aesthetic": 0.0})
    mine = [one for one in found if one.task == "aesthetic"]
    assert all((one.needed["step"], one.low, one.high) == (0, 0, 0) for one in mine)
    assert "A dash for steps" not in threshold_markdown(mine)


def test_an_end_of_an_interval_before_the_first_snapshot_is_a_dash(grid):
    soar = next(one for one in crossings(*grid, {}) if one.method == "soar")
    changed = replace(soar, needed={"step": 60.0}, low=None, high=80.0)
    assert "| 60 [-, 80] |" in threshold_markdown([changed])
    assert "A dash for steps" in threshold_markdown([changed])


def test_what_is_never_reached_says_so(grid):
    found = crossings(*grid, {"aesthetic": 99.0})
    mine = [one for one in found if one.task == "aesthetic"]
    assert all(not one.is_reached and one.share == 0 and np.isinf(one.high) for one in mine)
    assert "never [never, never]" in threshold_markdown(mine)


def test_failed_measurements_leave_the_interval_out(tmp_path):
    cells = [base(num_prompts=12)] + [
        Folder(method=method, task="aesthetic", num_prompts=12, unscored={"aesthetic": lost})
        for method, lost in (("sft", 2), ("soar", 0))
    ]
    found = crossings(*parts(write_grid(tmp_path / "grid", cells)), {})
    assert [one.share for one in found] == [None, None]
