"""Exposure bias as data: pairing, families, and what cannot be compared."""

import dataclasses
import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from soarbench.common.errors import StoreError
from soarbench.report.numbers.exposure import MEASURES, exposure_points
from soarbench.report.numbers.robustness import RobustnessPoint
from soarbench.report.text.exposure import exposure_note, exposure_texts, robustness_texts
from soarbench.stats.significance import Verdict, holm
from tests.report.diagnosed import LEVELS, NUM_IMAGES, write_diagnostics
from tests.report.folders import (
    FACTS,
    Folder,
    base,
    build_report,
    data_key,
    read_cells,
    table_file,
    write_grid,
)

KEY = data_key("aesthetic")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    cells = [base(num_prompts=10)]
    cells += [
        Folder(method=method, task="aesthetic", seed=seed, num_prompts=10, steps=(50, 100))
        for method in ("sft", "soar", "flow_grpo") for seed in (0, 1, 2)
    ]  # fmt: skip
    folder = write_grid(tmp_path_factory.mktemp("exposure") / "grid", cells)
    for cell in cells:
        write_diagnostics(folder, cell, ("aesthetic",))
    return read_cells(folder)[0]


def by_place(cells, baseline="sft"):
    points = exposure_points(cells, "aesthetic", baseline)
    return {(point.measure, point.level, point.method): point for point in points}


def test_methods_are_paired_with_the_base_and_with_the_baseline(stored):
    points = by_place(stored)
    assert len(points) == len(MEASURES) * len(LEVELS) * 4
    rows = 1 + (NUM_IMAGES - 1) / 200
    point = points["off_path", 0.5, "flow_grpo"]
    # Seeds 0, 1 and 2 are 0.01 apart; of images with values from -0.2 to 0.5 only what changed.
    assert point.change == pytest.approx(-0.5 * rows - 0.01)
    assert point.difference == pytest.approx(-0.5 * 0.7 * rows)
    assert (point.sigma, point.num_images, point.num_seeds) == (LEVELS[0.5], NUM_IMAGES, 3)
    assert point.change_high - point.change_low < (point.high - point.low) / 3
    assert point.baseline == "sft"
    assert points["off_path", 0.5, "base"].change == 0
    assert points["off_path", 0.5, "base"].num_seeds == 1


def test_less_is_better_and_the_baseline_is_compared_with_nothing(stored):
    points = by_place(stored)
    assert points["own_states", 0.75, "flow_grpo"].verdict == Verdict.BETTER
    # By the strengths of ``diagnosed``: SFT has 0.3, SOAR 0.2.
    assert points["own_states", 0.75, "soar"].difference > 0
    assert points["own_states", 0.75, "soar"].verdict == Verdict.WORSE
    for method in ("base", "sft"):
        point = points["own_states", 0.75, method]
        assert point.verdict is None
        assert np.isnan(point.difference)
        assert point.adjusted_p_value is None


def test_methods_levels_and_measures_are_one_family(stored):
    points = by_place(stored)
    places = [
        (measure, level, method)
        for measure in MEASURES for level in LEVELS for method in ("soar", "flow_grpo")
    ]  # fmt: skip
    alone = []
    for measure, level, method in places:
        cells = [cell for cell in stored if cell.method in ("base", "sft", method)]
        only = [_with(cell, functools.partial(_of, measure=measure, level=level)) for cell in cells]
        alone.append(by_place(only)[measure, level, method].adjusted_p_value)
    expected = holm(alone).tolist()
    assert [points[place].adjusted_p_value for place in places] == pytest.approx(expected)
    assert max(alone) < max(expected)


class _Tables:
    """A cell's tables, changed."""

    def __init__(self, tables, change):
        self.tables, self.change = tables, change

    def probe(self, name, key=""):
        return self.change(self.tables.probe(name, key))


def _with(cell, change):
    return dataclasses.replace(cell, tables=_Tables(cell.tables, change))


def _of(table, level, measure=None):
    table = table.filter(pc.equal(table["level"], level))
    return table if measure is None else table.filter(pc.equal(table["measure"], measure))


def test_without_base_or_baseline_the_rest_is_there(stored):
    trained = [cell for cell in stored if not cell.is_base]
    points = by_place(trained)
    assert np.isnan(points["off_path", 0.5, "soar"].change)
    assert points["off_path", 0.5, "soar"].verdict == Verdict.WORSE
    points = by_place([cell for cell in stored if cell.method != "sft"])
    assert points["off_path", 0.5, "soar"].change == pytest.approx(-0.1 * 1.055 - 0.01)
    assert points["off_path", 0.5, "soar"].verdict is None


def test_cells_of_an_older_version_have_none(stored, tmp_path):
    for cell in stored:
        assert cell.exposure("other") is None
    folder = write_grid(tmp_path / "grid", [base(num_prompts=10)])
    assert exposure_points(read_cells(folder)[0], "aesthetic", "sft") == []


def test_tables_of_other_settings_are_refused_in_one_line(stored):
    fewer = _with(stored[1], lambda table: _of(table, 0.5))
    with pytest.raises(StoreError, match="different versions or settings; move") as caught:
        exposure_points([*stored[:1], fewer, *stored[2:]], "aesthetic", "sft")
    assert "\n" not in str(caught.value)


def test_what_is_stored_in_single_precision_is_subtracted_in_double(stored):
    def single(table):
        index = table.schema.get_field_index("value")
        return table.set_column(index, "value", table["value"].cast(pa.float32()))

    def values(cell):
        table = _of(single(cell.exposure(KEY)), 0.5).to_pandas()
        return table[table["measure"] == "off_path"]["value"].to_numpy().astype(np.float64)

    cells = [cell for cell in stored if cell.is_base or (cell.method, cell.seed) == ("soar", 0)]
    base_cell, soar = sorted(cells, key=lambda cell: cell.method)
    change = by_place([_with(cell, single) for cell in cells])["off_path", 0.5, "soar"].change
    assert change == pytest.approx((values(soar) - values(base_cell)).mean(), rel=1e-12)


def test_the_table_names_levels_changes_and_verdicts(stored):
    points = exposure_points(stored, "aesthetic", "sft")
    frame = exposure_texts(points)
    assert list(frame.columns) == ["Measure", "Base", "SFT", "SOAR", "Flow-GRPO"]
    assert len(frame) == len(MEASURES) * len(LEVELS)
    row = frame.set_index("Measure").loc["More of it off the path, sigma 0.5"]
    assert row["Base"].startswith("0.3500 [")
    assert "<br>" not in row["SFT"]
    assert row["Flow-GRPO"].endswith(": better")


def _lost(table, rows, value):
    """A table whose first ``rows`` images lack a value off the path at 0.5."""
    frame = table.to_pandas()
    place = (frame["measure"] == "off_path") & (frame["level"] == 0.5) & (frame["row"] < rows)
    frame.loc[place, "value"] = value
    return pa.Table.from_pandas(frame, preserve_index=False)


def _diverged(cells, rows, value=np.inf):
    """The cells, the first of SOAR with so many images without a value."""
    place = next(i for i, cell in enumerate(cells) if cell.method == "soar")
    other = _with(cells[place], functools.partial(_lost, rows=rows, value=value))
    return [*cells[:place], other, *cells[place + 1 :]]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_unscored_starred_and_noted(stored, value):
    points = by_place(_diverged(stored, 1, value))
    point = points["off_path", 0.5, "soar"]
    assert (point.num_unscored, point.num_images, point.num_seeds) == (1, NUM_IMAGES, 3)
    # All images of a method moved alike but for 1 % an image; see ``diagnosed``.
    whole = by_place(stored)["off_path", 0.5, "soar"]
    assert point.difference == pytest.approx(whole.difference, rel=0.02)
    assert point.verdict == Verdict.WORSE
    assert [key for key, one in points.items() if one.num_unscored] == [("off_path", 0.5, "soar")]
    texts = exposure_texts(list(points.values())).set_index("Measure")
    row = texts.loc["More of it off the path, sigma 0.5"]
    assert "]*<br>" in row["SOAR"]
    assert "*" not in texts.drop(index=row.name).to_numpy().sum() + row["Flow-GRPO"]
    assert "not finite" in exposure_note(list(points.values()), "SFT")
    assert "not finite" not in exposure_note([whole], "SFT")


def test_a_seed_without_any_value_costs_its_own_number_alone(stored):
    points = by_place(_diverged(stored, NUM_IMAGES))
    point = points["off_path", 0.5, "soar"]
    assert np.isnan([point.value, point.change, point.difference]).all()
    assert (point.verdict, point.num_images, point.num_unscored) == (None, 0, NUM_IMAGES)
    assert points["off_path", 0.5, "flow_grpo"].verdict == Verdict.BETTER
    texts = exposure_texts(list(points.values())).set_index("Measure")
    assert texts.loc["More of it off the path, sigma 0.5", "SOAR"] == "-*"


def test_a_report_is_not_lost_to_a_value_that_is_infinite(tmp_path):
    cells = [base(num_prompts=10)]
    cells += [
        Folder(method=method, task="aesthetic", seed=seed, num_prompts=10, steps=(50, 100))
        for method in ("sft", "soar") for seed in (0, 1)
    ]  # fmt: skip
    folder = write_grid(tmp_path / "grid", cells)
    for cell in cells:
        write_diagnostics(folder, cell, ("aesthetic",))
    assert not build_report(folder, tmp_path, grid="grid").gaps
    place = table_file(folder / "cells" / cells[-1].cell_id, "exposure", KEY)
    pq.write_table(_lost(pq.read_table(place), 2, np.inf), place)
    report = build_report(folder, tmp_path, grid="grid")
    line = f"{cells[-1].cell_id}, exposure bias: 2 values are not finite, and are left out"
    assert report.gaps == (line,)
    assert line in (tmp_path / "grid" / "table.md").read_text()


def test_samplers_scores_by_judges_of_one_title_have_a_row_each():
    first = RobustnessPoint(
        task="t", metric="clipscore", num_inference_steps=10, state_noise=0.0, guidance_scale=1.0,
        is_usual=True, method="base", value=0.25, low=0.2, high=0.3, baseline="",
        interaction=np.nan, interaction_low=np.nan, interaction_high=np.nan,
        adjusted_p_value=None, verdict=None, num_prompts=9, num_seeds=1,
    )  # fmt: skip
    points = [first, dataclasses.replace(first, metric="larger", value=0.35)]
    facts = {one.metric: dataclasses.replace(FACTS["clipscore"], name=one.metric) for one in points}
    texts = robustness_texts(points, facts, {})
    assert texts.to_numpy().tolist() == [
        ["CLIPScore (clipscore), 10 steps (usual)", "0.2500 [0.2000, 0.3000]"],
        ["CLIPScore (larger), 10 steps (usual)", "0.3500 [0.2000, 0.3000]"],
    ]
