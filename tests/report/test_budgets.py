import csv
import io
from dataclasses import replace
from math import comb

import numpy as np
import pytest

from soarbench.report.numbers.budgets import (
    Place,
    Stop,
    asked_costs,
    is_gap,
    matched_tables,
    place_at,
    way,
)
from soarbench.report.numbers.curves import CurvePoint, build_curves, panel_points
from soarbench.report.numbers.estimates import estimate
from soarbench.report.numbers.panels import build_panels
from soarbench.report.numbers.tables import build_tables
from soarbench.report.numbers.thresholds import crossings
from soarbench.report.text.frames import csv_text, matched_numbers, threshold_numbers
from soarbench.report.text.markdown import matched_markdown, threshold_markdown
from soarbench.stats import Verdict
from soarbench.stats.significance import holm
from soarbench.store.cells import Cell
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


def test_one_task_that_an_oracle_decides_is_compared_at_equal_cost(tmp_path):
    """Its curve is one of those that are drawn, beside what is learned."""
    cells = [
        replace(cell, final_metric="oracle_aesthetic")
        for cell in reward_specific(seeds=(0, 1), num_prompts=12)
        if cell.task != "alignment"
    ]
    tables, panels, curves = parts(write_grid(tmp_path / "grid", cells))
    assert {one.metric for one in curves} == {"aesthetic", "oracle_aesthetic"}
    found = matched_tables(tables, panels, curves, "forward_equivalents")
    assert {one.table.final_metric for one in found} == {"oracle_aesthetic"}


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
    [
        (2.0, 0, 10, 0.5), (7.0, 10, 20, 0.75),
        # A snapshot is taken where it is within half an update (of 0.4 seconds) or 2.5 %.
        (4.0, 10, 10, 0.0), (3.81, 10, 10, 0.0), (4.19, 10, 10, 0.0), (8.0, 20, 20, 0.0),
        (8.19, 20, 20, 0.0), (3.79, 0, 10, 0.9475), (4.21, 10, 20, 0.0525),
    ],
)  # fmt: skip
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
    assert found.is_early == (level in (2.0, 3.79))
    assert found.is_measured == (before == after)


def test_where_costs_are_compared_is_read_off_a_cells_settings(tmp_path):
    settings = {
        "soar": {"method": {"kind": "soar"}, "ema": {"every": 8}},
        "flow_grpo": {"method": {"updates_per_collection": 6}, "ema": {"every": 8}},
    }
    cells, holes = read_cells(write_grid(tmp_path / "grid", reward_specific((0,), num_prompts=4)))
    cells = [
        replace(one, description={**one.description, "config": settings.get(one.method, {})})
        for one in cells
    ]
    panels, _ = build_panels(cells)
    curves = build_curves(cells, panels, build_tables(cells, panels, holes, baseline="sft"))
    units = {(one.method, one.unit) for one in curves}
    assert units == {("base", 1), ("sft", 1), ("soar", 8), ("flow_grpo", 24)}


@pytest.mark.parametrize("level", [3.61, 4.0, 4.39])
def test_updates_that_share_a_rollout_are_compared_at_its_end(level):
    snapshot = point("flow_grpo", 10, 2.0, seconds=4.0)
    points = [point("base", 0, 1.0, seconds=0.0), point("flow_grpo", 20, 3.0, seconds=8.0)]
    found = place_at(way([*points, replace(snapshot, unit=2)], "flow_grpo"), "seconds", level)
    # An update takes 0.4 seconds, two are collected for at once.
    assert (found.is_measured, found.before.step) == (True, 10)
    alone = place_at(way([*points, snapshot], "flow_grpo"), "seconds", level)
    assert alone.is_measured == (level == 4.0)


def test_beyond_the_ends_is_no_place():
    points = [point("sft", 10, 2.0, seconds=4.0), point("sft", 20, 3.0, seconds=8.0)]
    stops = way(points, "sft")
    assert place_at(stops, "seconds", 3.9) is None  # the base was not evaluated
    assert place_at(stops, "seconds", 8.3) is None
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
        for name, one in row.estimates.items():
            assert one.interval.estimate == pytest.approx(same.estimates[name].interval.estimate)
        assert {name: one.verdict for name, one in row.comparisons.items()} == {
            name: one.verdict for name, one in same.comparisons.items()
        }


def moved_level(grid, share):
    """SFT ends where SOAR is some of the way from its second snapshot to its last."""
    tables, panels, curves = grid
    level = {one.step: one.spent["forward_equivalents"] for one in curves if one.method == "soar"}
    total = level[100] + (level[150] - level[100]) * share
    curves = [
        replace(one, spent={**one.spent, "forward_equivalents": total * one.step / 150})
        if one.method == "sft"
        else one
        for one in curves
    ]
    return tables, panels, curves, total


def flattened(panels, step, metrics):
    """SOAR's scores of a step, hardly moved, at step 150 as well."""
    changed = {}
    for (task, name), panel in panels.items():
        values = dict(panel.values)
        for run, scores in panel.values.items():
            if run.method == "soar" and run.step == step and name in metrics:
                values[run._replace(step=150)] = scores + 0.01
        changed[task, name] = replace(panel, values=values)
    return changed


def test_between_snapshots_that_hardly_differ_values_are_linear_in_the_cost(grid):
    tables, panels, curves, total = moved_level(grid, 1 / 3)
    panels = flattened(panels, 100, ("aesthetic", "oracle_aesthetic"))
    found = matched_tables(tables, panels, curves, "forward_equivalents")[0]
    soar = next(row for row in found.table.rows if row.method == "soar")
    ends = [
        panels["aesthetic", "aesthetic"].scores("soar", step).seed_means() for step in (100, 150)
    ]
    expected = (2 * ends[0].mean() + ends[1].mean()) / 3
    assert soar.estimates["aesthetic"].interval.estimate == pytest.approx(expected)
    assert soar.budget["optimizer_steps"] == pytest.approx(100 + 50 / 3)
    assert soar.budget["forward_equivalents"] == pytest.approx(total)
    assert found.gaps == {"flow_grpo": ("aesthetic", "oracle_aesthetic")}
    # No verdict rests on a number that was not measured.
    assert [one.verdict for one in soar.comparisons.values()] == [Verdict.EXPLORATORY] * 2
    assert found.table.family == []
    text = matched_markdown([found])
    assert "SOAR: Aesthetic, Aesthetic (oracle) linear between step 100 and step 150." in text
    assert "30 % too narrow" in text


def test_a_steep_rise_between_snapshots_is_refused_metric_by_metric(grid):
    tables, panels, curves, total = moved_level(grid, 1 / 3)
    # The learned score hardly moves, and the truth jumps by more than its whole interval.
    panels = flattened(panels, 100, ("aesthetic",))
    jump = panels["aesthetic", "oracle_aesthetic"]
    values = {
        run: scores + 0.5 * (run.method == "soar" and run.step == 150)
        for run, scores in jump.values.items()
    }
    panels["aesthetic", "oracle_aesthetic"] = replace(jump, values=values)
    found = matched_tables(tables, panels, curves, "forward_equivalents")[0]
    assert found.gaps["soar"] == ("oracle_aesthetic",)
    soar = next(row for row in found.table.rows if row.method == "soar")
    assert soar.estimates["aesthetic"].interval is not None
    assert soar.estimates["oracle_aesthetic"].interval is None
    assert set(soar.comparisons) == {"aesthetic"}
    text = matched_markdown([found])
    assert " | not measured | 117 |" in text
    assert (
        "SOAR: Aesthetic (oracle) not measured between step 100 and step 150; "
        f"budget.costs=[{total:.0f}] measures there." in text
    )


def test_a_quarter_of_the_narrower_interval_is_the_limit(grid):
    panel = grid[1]["aesthetic", "aesthetic"]
    widths = []
    for step in (100, 150):
        interval = estimate(panel, "soar", step).interval
        widths.append(interval.high - interval.low)
    stops = [Stop(method="soar", step=step, spent={"step": step}, value=0.0) for step in (100, 150)]
    place = Place(before=stops[0], after=stops[1], share=0.5)
    for share, expected in ((0.2, False), (-0.2, False), (0.3, True), (-0.3, True)):
        values = dict(panel.values)
        for run in panel.runs("soar", 150):
            first = panel.values[run._replace(step=100)]
            # The same images at another level have the same interval there.
            values[run] = first + share * widths[0]
        assert is_gap(replace(panel, values=values), place) == expected
    assert is_gap(panel, replace(place, before=replace(stops[0], method="base", step=0)))


def test_a_snapshot_at_the_cost_is_compared_and_says_its_own_cost(tmp_path):
    cells = [base(num_prompts=12)] + [
        Folder(method=method, task="aesthetic", seed=seed, num_prompts=12, steps=steps)
        for method, steps in (("sft", (50, 100, 150)), ("soar", (17, 50, 100, 150)))
        for seed in (0, 1)
    ]
    tables, panels, curves = parts(write_grid(tmp_path / "grid", cells))
    # Counters are logged at the very step, as they are by every training.
    curves = [
        replace(one, spent={**one.spent, "forward_equivalents": 9 * 32.0 * one.step})
        if one.method == "soar"
        else one
        for one in curves
    ]
    found = matched_tables(tables, panels, curves, "forward_equivalents")[0]
    assert (found.level, found.gaps) == (4800, {})
    soar = next(row for row in found.table.rows if row.method == "soar")
    measured = panels["aesthetic", "aesthetic"].scores("soar", 17).seed_means().mean()
    assert soar.estimates["aesthetic"].interval.estimate == measured
    assert soar.budget["forward_equivalents"] == 4896
    assert [one.method for one in found.table.family] == ["soar"]
    text = matched_markdown([found])
    assert "| 17 | 4,896 |" in text
    assert "linear" not in text
    assert "- Decided: Aesthetic of SOAR against SFT." in text
    # Without it nobody knows: the next one cost 14,400.
    curves = [one for one in curves if one.step != 17 or one.method != "soar"]
    assert "soar" in matched_tables(tables, panels, curves, "forward_equivalents")[0].gaps


def test_costs_that_were_asked_for_are_levels_too(grid):
    tables, panels, curves = grid
    asked = {"aesthetic": [4900.0, 24000.0, 50000.0]}
    found = matched_tables(tables, panels, curves, "forward_equivalents", asked)
    levels = [one.level for one in found if one.table.task == "aesthetic"]
    # 4,900 are as good as SFT's 4,800; nobody but Flow-GRPO reached 50,000.
    assert levels == [4800, 24000, 43200]
    text = matched_markdown([one for one in found if one.level == 24000])
    assert "\n\n24,000 forward equivalents:\n\n" in text
    assert "SOAR: Aesthetic not measured between step 50 and step 100;" in text
    assert "SOAR: Aesthetic (oracle) linear between step 50 and step 100." in text


def test_cells_say_what_they_were_asked_for():
    cells = [cell_with(costs) for costs in ([1.0, 5.0], [5.0, 3.0], None)]
    assert asked_costs(cells) == {"aesthetic": [1.0, 3.0, 5.0]}


def cell_with(costs):
    config = {} if costs is None else {"costs": costs}
    return Cell(tables=None, description={"task": "aesthetic", "config": config}, state="finished")


def test_between_the_base_and_the_first_snapshot_nothing_is_measured(grid):
    found = [
        one for one in matched_tables(*grid, "forward_equivalents") if one.table.task == "aesthetic"
    ]
    # 4,800 forward equivalents are a third of the way to SOAR's first snapshot.
    assert list(found[0].gaps) == ["soar", "flow_grpo"]
    soar = next(row for row in found[0].table.rows if row.method == "soar")
    assert all(one.interval is None for one in soar.estimates.values())
    assert soar.comparisons == {}
    text = matched_markdown(found[:1])
    assert "| SOAR | 2 | not measured | not measured | - | - | - | - |" in text
    assert (
        "- SOAR: Aesthetic, Aesthetic (oracle) not measured between untrained and step 50; "
        "budget.costs=[4800] measures there." in text
    )
    lines = csv.DictReader(io.StringIO(csv_text(matched_numbers(found[:1]))))
    assert {line["value"] for line in lines if line["method"] != "sft"} == {""}


def test_where_all_were_measured_no_gap_is_explained(grid):
    found = matched_tables(*grid, "images_seen")
    assert all(one.gaps == {} for one in found)
    text = matched_markdown(found[:1])
    assert "not measured" not in text
    assert "linear" not in text


def test_beyond_the_baseline_the_comparison_is_with_who_spent_it_all(grid):
    found = [
        one for one in matched_tables(*grid, "forward_equivalents") if one.table.task == "aesthetic"
    ]
    assert [one.table.baseline for one in found] == ["sft", "soar"]
    rows = {row.method: row for row in found[1].table.rows}
    assert not rows["sft"].estimates
    assert list(found[1].gaps) == ["flow_grpo"]
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
    assert compared[0] == {"sft", "soar"}
    assert list(found[0].gaps) == ["soar"]
    assert found[0].methods == ("sft",)
    assert found[0].table.baseline == "sft"
    assert all("sft" not in methods for methods in compared[1:])
    assert matched_markdown(found).count("or was still in its first stage.") == 1


def measured_everywhere(folder):
    """Three methods, each with snapshots at what the cheaper ones spent in all."""
    steps = {"sft": (150,), "soar": (75, 150), "flow_grpo": (38, 75, 150)}
    cells = [base(num_prompts=12)] + [
        Folder(method=method, task="aesthetic", seed=seed, num_prompts=12, steps=own)
        for method, own in steps.items()
        for seed in (0, 1)
    ]
    tables, panels, curves = parts(write_grid(folder, cells))
    costs = {"base": 0.0, "sft": 32.0, "soar": 64.0, "flow_grpo": 128.0}
    curves = [
        replace(one, spent={**one.spent, "forward_equivalents": costs[one.method] * one.step})
        for one in curves
    ]
    return tables, panels, curves


def test_all_costs_of_a_task_are_one_family(tmp_path):
    """Who reads them all has as many looks as there are comparisons."""
    tables, panels, curves = measured_everywhere(tmp_path / "grid")
    found = matched_tables(tables, panels, curves, "forward_equivalents")
    assert [len(one.table.family) for one in found] == [2, 1]
    family = [one for part in found for one in part.table.family]
    expected = holm([one.p_value for one in family])
    assert [one.adjusted_p_value for one in family] == pytest.approx(expected)
    assert [one.adjusted_p_value for one in family] != [one.p_value for one in family]
    assert {one.family_size for one in family} == {3}
    text = matched_markdown(found)
    assert text.count("Holm's correction for 3 comparisons") == 2
    assert text.count("All costs of a task are one family") == 1
    assert "All costs" not in matched_markdown(found[:1])


def test_what_was_published_of_equal_steps_is_no_goal_at_equal_cost(tmp_path):
    tables, panels, curves = measured_everywhere(tmp_path / "grid")
    said = {"sft": 5.0, "soar": 5.1, "flow_grpo": 5.2}
    for detect in (None, 0.3):
        targets = replace(tables[0].targets, published=said, detect=detect)
        aimed = [replace(table, targets=targets) for table in tables]
        found = matched_tables(aimed, panels, curves, "forward_equivalents")
        assert {one.goal for part in found for one in part.table.family} == {detect}


def test_a_value_that_some_seeds_never_reach_is_not_sure_to_be_reached(grid):
    """Prompts agree; the mean over seeds is beyond the value, and one seed is far below it."""
    tables, panels, curves = grid
    panel = panels["aesthetic", "aesthetic"]

    def found(shift):
        values = {
            run: np.full_like(scores, 5.0 + (0 if run.method == "base" else shift(run)))
            for run, scores in panel.values.items()
        }
        changed = {**panels, ("aesthetic", "aesthetic"): replace(panel, values=values)}
        every = crossings(tables, changed, build_points(changed, curves), {"aesthetic": 5.5})
        (soar,) = (one for one in every if (one.task, one.method) == ("aesthetic", "soar"))
        return soar

    seeds = sorted({run.seed for run in panel.runs("soar", 50)})
    assert len(seeds) > 1
    assert found(lambda _run: 0.6).share == 1.0
    unsure = found(lambda run: -1.0 if run.seed == seeds[0] else 2.0)
    assert unsure.is_reached
    # Of n seeds n - 1 are drawn; so many of them the one below may be.
    size = len(seeds)
    missed = sum(
        comb(size - 1, k) * (1 / size) ** k * (1 - 1 / size) ** (size - 1 - k)
        for k in range(size)
        if 2.0 - 3.0 * k / (size - 1) < 0.5
    )
    assert unsure.share == pytest.approx(1 - missed, abs=4 * 0.016)
    assert np.isinf(unsure.high)


def test_a_task_without_costs_has_no_matched_table(grid):
    tables, panels, curves = grid
    bare = [replace(one, spent={}) for one in curves]
    assert matched_tables(tables, panels, bare, "forward_equivalents") == []


def test_the_baseline_reaches_its_own_value_at_its_end_and_no_later(grid):
    found = {(one.task, one.method): one for one in crossings(*grid, {})}
    sft = found["aesthetic", "sft"]
    assert sft.source == "where SFT ends"
    assert sft.needed["step"] == 150
    assert (sft.share, sft.high) == (1.0, 150)
    soar = found["aesthetic", "soar"]
    # A steep rise: somewhere between two snapshots, and nobody knows where.
    assert soar.needed == {}
    assert soar.between["step"] == (50, 100)
    assert soar.between["forward_equivalents"] == (32 * 9 * 50, 32 * 9 * 100)
    # Ends in a gap are at what was measured beyond them: the base, and the second snapshot.
    assert (soar.low, soar.high) == (0, 100)


def test_a_chosen_threshold_by_hand(grid):
    tables, panels, curves = grid
    panels = raised(panels, 50, 100)
    curves = build_points(panels, curves)
    line = sorted(
        (one.step, one.value)
        for one in curves
        if one.task == "aesthetic" and one.method in ("base", "soar")
    )
    middle = (line[1][1] + line[2][1]) / 2
    found = crossings(tables, panels, curves, {"aesthetic": middle})
    soar = next(one for one in found if (one.task, one.method) == ("aesthetic", "soar"))
    assert soar.needed["step"] == pytest.approx(75)
    assert soar.needed["forward_equivalents"] == pytest.approx(32 * 9 * 75)
    assert (soar.source, soar.between) == ("chosen", {})


def test_evaluations_that_lost_other_prompts_are_resampled_together_by_none(grid):
    """As many prompts each, so that their tables look alike: columns are other prompts."""
    tables, panels, curves = grid
    panel = panels["aesthetic", "aesthetic"]
    names = np.unique(panel.prompts)

    def found(lost):
        values = {
            run: np.where(panel.prompts == lost(run), np.nan, one)
            for run, one in panel.values.items()
        }
        changed = {**panels, ("aesthetic", "aesthetic"): replace(panel, values=values)}
        (soar,) = (
            one for one in crossings(tables, changed, curves, {})
            if (one.task, one.method) == ("aesthetic", "soar")
        )  # fmt: skip
        return soar

    assert found(lambda _run: names[0]).share is not None
    unlike = found(lambda run: names[0] if run.method == "sft" else names[-1])
    assert (unlike.share, unlike.low, unlike.high) == (None, None, None)


def raised(panels, first, second):
    """SOAR's scores of one step a little above those of another, and all that follow."""
    panel = panels["aesthetic", "aesthetic"]
    values = dict(panel.values)
    for run in panel.runs("soar", first):
        values[run._replace(step=second)] = values[run] + 0.01
    return {**panels, ("aesthetic", "aesthetic"): replace(panel, values=values)}


def build_points(panels, curves):
    """The points of a panel that was changed, with what was spent there."""
    spent = {(one.method, one.step): one.spent for one in curves if one.task == "aesthetic"}
    points = panel_points(panels["aesthetic", "aesthetic"])
    return [replace(one, spent=spent[one.method, one.step]) for one in points]


def test_a_crossing_in_a_gap_is_between_its_neighbours(grid):
    tables, panels, curves = grid
    ends = {
        one.step: one.value
        for one in curves
        if one.task == "aesthetic" and one.method in ("base", "soar")
    }
    for first, last in ((0, 50), (50, 100)):
        found = crossings(tables, panels, curves, {"aesthetic": (ends[first] + ends[last]) / 2})
        soar = next(one for one in found if (one.task, one.method) == ("aesthetic", "soar"))
        assert soar.is_reached
        assert (soar.needed, soar.between["step"]) == ({}, (first, last))
        # An end in a gap is at the snapshot beyond it; elsewhere it is linear.
        assert soar.low <= first
        assert soar.high >= last
        row = threshold_markdown([soar])
        end = "never" if np.isinf(soar.high) else f"{soar.high:.0f}"
        assert f"| SOAR | between {first} and {last} [{soar.low:.0f}, {end}] |" in row
        assert f"between {first * 32:,} and {last * 32:,} |" in row
        (line,) = csv.DictReader(io.StringIO(csv_text(threshold_numbers([soar]))))
        assert (line["reached"], line["step"]) == ("True", "")
        assert (line["steps_before"], line["steps_after"]) == (str(first), str(last))


def test_what_the_base_reaches_already_was_measured(grid):
    found = crossings(*grid, {"aesthetic": 0.0})
    mine = [one for one in found if one.task == "aesthetic"]
    assert all((one.needed["step"], one.low, one.high) == (0, 0, 0) for one in mine)
    assert "| between" not in threshold_markdown(mine)


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


def test_methods_without_a_common_seed_cross_without_an_interval(tmp_path):
    cells = [
        base(num_prompts=12),
        *(
            Folder(method=method, task="aesthetic", seed=seed, num_prompts=12)
            for method, seed in (("sft", 0), ("soar", 1))
        ),
    ]
    # Of two seeds a resample has one, and so never those of both.
    sft, soar = crossings(*parts(write_grid(tmp_path / "grid", cells)), {})
    assert sft.share == 1.0
    assert soar.is_reached
    assert (soar.low, soar.high, soar.share) == (None, None, None)


def test_a_method_whose_last_step_has_no_number_did_not_end_at_the_one_before(tmp_path):
    names = ("sft", "soar", "flow_grpo", "sft_then_flow_grpo")
    cells = [Folder(method=name, task="aesthetic", num_prompts=12) for name in names]
    folder = write_grid(tmp_path / "grid", [base(num_prompts=12), *cells])
    read, holes = read_cells(folder)
    panels, _ = build_panels(read)

    def spenders(lost):
        """Whose whole training each level is, without the numbers of a method's last step."""
        changed = {
            key: replace(
                panel,
                values={
                    run: np.full_like(values, np.nan) if run[::2] == (lost, 150) else values
                    for run, values in panel.values.items()
                },
            )
            for key, panel in panels.items()
        }
        tables = build_tables(read, changed, holes, baseline="sft")
        points = build_curves(read, changed, tables)
        found = matched_tables(tables, changed, points, "forward_equivalents")
        return [(one.level, one.methods) for one in found], crossings(tables, changed, points, {})

    levels, reached = spenders(None)
    both = [(4800.0, ("sft",)), (9600.0, ("sft_then_flow_grpo",))]
    assert levels == [*both, (43_200.0, ("soar",))]
    assert len(reached) == 4
    # SOAR spent 43,200; the 28,800 of its last number are no whole training.
    levels, reached = spenders("soar")
    assert levels == both
    assert len(reached) == 4
    # Without SFT's end nobody knows where it ends, nor what the stage after it has cost by then.
    levels, reached = spenders("sft")
    assert levels == [(43_200.0, ("soar",))]
    assert not reached
