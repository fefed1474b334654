"""All figures of a report: their files, their data, and what is said where there is none."""

import csv
import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from soarbench.report.figures.bars import Bar, draw_bars
from soarbench.report.figures.exposure import draw_exposure, draw_robustness
from soarbench.report.figures.forest import draw_forest
from soarbench.report.figures.gaming import draw_gaming, draw_overoptimisation
from soarbench.report.figures.layout import settle
from soarbench.report.figures.sheets import draw_sheet, plan_sheet
from soarbench.report.figures.style import METHOD_STYLES
from soarbench.report.numbers.curves import CurvePoint
from soarbench.report.numbers.exposure import ExposurePoint
from soarbench.report.numbers.gaming import Benchmark, Gaming, GamingPoint
from soarbench.report.numbers.robustness import RobustnessPoint
from soarbench.report.numbers.trained_on import trained_on
from soarbench.stats.intervals import Interval
from soarbench.stats.significance import Verdict
from tests.report.diagnosed import color_of, write_diagnostics, write_images
from tests.report.folders import FACTS, Folder, base, build_report, read_cells, write_grid

SMALL = {"num_prompts": 9, "steps": (50, 100, 150, 200)}
FORMATS = ("png", "pdf", "svg")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A diagnosed grid with images: the grid's folder."""
    cells = [base(num_prompts=9)]
    for method, gain in (("sft", 0.3), ("flow_grpo", 2.0)):
        gains = {"aesthetic": gain, "oracle_aesthetic": 0.2}
        cells += [
            Folder(method=method, task="aesthetic", seed=seed, gains=gains, **SMALL)
            for seed in (3, 1)
        ]
    grid = write_grid(tmp_path_factory.mktemp("store") / "runs" / "grid", cells)
    for cell in cells:
        write_diagnostics(grid, cell, ("aesthetic",))
        write_images(grid, cell)
    return grid


@pytest.fixture(scope="module")
def reported(store, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    return build_report(store, results, grid="grid", formats=FORMATS), results / "grid"


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def lines(ax):
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def test_every_figure_has_its_formats_its_data_and_a_line_in_the_index(reported):
    report, folder = reported
    index = json.loads((folder / "figures.json").read_text())
    names = [entry["name"] for entry in index["figures"]]
    assert names == [
        "forest", "curves", "curves_forward_equivalents", "bars", "gaming",
        "overoptimisation_aesthetic", "exposure_aesthetic", "samples_aesthetic",
    ]  # fmt: skip
    assert [entry.name for entry in report.figures.entries] == names
    for entry in index["figures"]:
        suffixes = ("png",) if entry["name"].startswith("samples") else FORMATS
        assert entry["files"] == [f"{entry['name']}.{suffix}" for suffix in suffixes]
        for name in (*entry["files"], entry["data"]):
            assert (folder / name).stat().st_size > 0
        assert entry["caption"].endswith(".")
    assert report.figures.notes == ()
    assert not list(folder.glob("*.partial"))


def test_without_a_format_the_data_alone_are_written(store, reported, tmp_path):
    report = build_report(store, tmp_path, grid="grid", formats=())
    drawn = reported[1]
    for entry in report.figures.entries:
        assert entry.files == ()
        name = entry.data
        assert (tmp_path / "grid" / name).read_bytes() == (drawn / name).read_bytes()
    assert not [path for path in (tmp_path / "grid").iterdir() if path.suffix[1:] in FORMATS]


def test_the_data_beside_a_figure_is_what_it_shows(reported):
    _, folder = reported
    gamed = rows_of(folder / "gaming.csv")
    last = {row["method"]: row for row in gamed if row["step"] == "200"}
    # The scores of this store are independent of the truth, so that nothing is expected of a gain.
    assert float(last["flow_grpo"]["proxy_gain_low"]) > 1.5
    assert float(last["sft"]["shortfall_low"]) < 0 < float(last["sft"]["shortfall_high"])
    panel = rows_of(folder / "overoptimisation_aesthetic.csv")
    assert len(panel) == 10 * (1 + 2 * 4)
    marked = {(row["method"], row["step"]) for row in panel if row["is_marked"] == "True"}
    assert marked == {("base", "0"), ("sft", "200"), ("flow_grpo", "200")}
    exposure = rows_of(folder / "exposure_aesthetic.csv")
    assert len(exposure) == 5 * 2 * 3
    decided = {
        row["method"] for row in exposure if row["verdict"] not in ("", "not distinguishable")
    }
    assert decided == {"flow_grpo"}
    # The last point of a curve, the forest plot and the table are one comparison.
    curves = {row["method"]: row for row in rows_of(folder / "curves.csv") if row["step"] == "200"}
    forest = {row["method"]: row for row in rows_of(folder / "forest.csv") if not row["counter"]}
    assert set(forest) == {"flow_grpo"}
    deciding = next(
        row for row in rows_of(folder / "table.csv")
        if (row["method"], row["metric"]) == ("flow_grpo", "aesthetic")
    )  # fmt: skip
    for name in ("difference", "difference_low", "difference_high"):
        assert curves["flow_grpo"][name] == deciding[name]
        assert forest["flow_grpo"][name.removeprefix("difference_")] == deciding[name]
    bars = rows_of(folder / "bars.csv")
    assert {(row["metric"], row["method"]) for row in bars} == {
        (metric, method)
        for metric in ("aesthetic", "oracle_aesthetic") for method in ("sft", "flow_grpo")
    }  # fmt: skip


def test_a_forest_plot_fills_what_is_decided(reported):
    report, _ = reported
    part = report.forest[0]
    (one,) = part.comparisons
    faces = {}
    for verdict in (Verdict.BETTER, Verdict.NOT_DISTINGUISHABLE):
        shown = replace(part, comparisons=(replace(one, verdict=verdict),))
        (ax,) = draw_forest([shown]).axes
        (marker,) = (line for line in ax.lines if line.get_marker() == "^")
        assert marker.get_xdata().tolist() == [one.difference.estimate]
        faces[marker.get_markerfacecolor()] = verdict
        assert [text.get_text() for text in ax.texts][-1] == str(verdict)
        assert ax.get_yticklabels()[-1].get_text() == "Flow-GRPO"
    assert faces == {
        METHOD_STYLES["flow_grpo"].color: Verdict.BETTER, "white": Verdict.NOT_DISTINGUISHABLE,
    }  # fmt: skip
    with pytest.raises(ValueError, match="no method was compared"):
        draw_forest([])


@pytest.mark.slow
def test_bars_are_the_tables_differences_to_the_base(store, reported, tmp_path):
    _, folder = reported
    build_report(store, tmp_path, grid="grid", baseline="base", formats=("png",))
    table = {
        (row["metric"], row["method"]): row for row in rows_of(tmp_path / "grid" / "table.csv")
    }
    for bar in rows_of(folder / "bars.csv"):
        row = table[bar["metric"], bar["method"]]
        assert float(bar["change"]) == pytest.approx(float(row["difference"]), abs=1e-9)
        assert float(bar["low"]) == pytest.approx(float(row["difference_low"]), rel=0.1, abs=0.02)


@pytest.mark.slow
def test_without_images_and_diagnostics_the_rest_is_drawn_and_it_is_said(store, tmp_path):
    grid = tmp_path / "runs" / "grid"
    shutil.copytree(store, grid)
    results = tmp_path / "results"
    build_report(grid, results, grid="grid", formats=("png",))
    for cell in (grid / "cells").iterdir():
        shutil.rmtree(cell / "images")
        shutil.rmtree(cell / "diagnostics")
    report = build_report(grid, results, grid="grid", formats=("png",))
    assert not report.gaps
    first, second = report.figures.notes
    assert "5 cells have no diagnostics" in first
    assert "python -m soarbench diagnose" in first
    assert "no image is here, so samples_aesthetic is left out" in second
    names = {path.name for path in (results / "grid").iterdir()}
    # Those of the earlier report, which had data, would be lies beside the new table.
    assert not any(name.startswith(("samples", "exposure")) for name in names)
    panel = rows_of(results / "grid" / "overoptimisation_aesthetic.csv")
    assert {row["metric"] for row in panel} == {"aesthetic", "oracle_aesthetic"}


@pytest.mark.slow
def test_a_missing_image_is_a_marked_square(store, tmp_path):
    grid = tmp_path / "grid"
    shutil.copytree(store, grid)
    tile = plan_sheet(read_cells(grid)[0], "aesthetic")[1]
    path = tile.cell.tables.image_file(tile.step, tile.prompt_id, tile.image_index)
    assert path is not None
    path.unlink()
    report = build_report(grid, tmp_path / "results", grid="grid", formats=("png",))
    assert report.figures.notes == ("task aesthetic: 1 of the sheet's 56 images are gone",)
    rows = rows_of(tmp_path / "results" / "grid" / "samples_aesthetic.csv")
    assert [row["is_stored"] for row in rows].count("False") == 1


def test_a_sheet_shows_the_same_prompts_and_seed_everywhere(store):
    tiles = plan_sheet(read_cells(store)[0], "aesthetic")
    prompts = list(dict.fromkeys(tile.prompt_id for tile in tiles))
    assert len(prompts) == 8
    assert (prompts[0], prompts[-1]) == ("drawbench-00000", "drawbench-00008")
    columns = [(tile.method, tile.seed, tile.step) for tile in tiles[:7]]
    assert columns == [
        ("base", 0, 0), ("sft", 1, 50), ("sft", 1, 100), ("sft", 1, 200),
        ("flow_grpo", 1, 50), ("flow_grpo", 1, 100), ("flow_grpo", 1, 200),
    ]  # fmt: skip
    assert all(
        [(t.method, t.seed, t.step) for t in tiles[start : start + 7]] == columns
        for start in range(0, len(tiles), 7)
    )
    sheet = np.asarray(draw_sheet(tiles))
    colors = {tuple(color) for color in sheet.reshape(-1, 3)[::7].tolist()}
    for tile in tiles:
        prompt = int(tile.prompt_id.rpartition("-")[2])
        assert color_of(tile.method, tile.step, prompt) in colors


def test_nothing_to_draw_is_refused():
    for draw in (draw_exposure, draw_sheet, draw_gaming):
        with pytest.raises(ValueError, match="n"):
            draw([])
    with pytest.raises(ValueError, match="n"):
        draw_bars([], FACTS)
    with pytest.raises(ValueError, match="no point to draw"):
        draw_overoptimisation([], {}, {}, {}, "last")


def curve(method, step, metric="aesthetic"):
    return CurvePoint(
        task="t", metric=metric, method=method, step=step, value=step / 100, low=0.0, high=1.0,
        num_prompts=4, num_seeds=1, spent={},
    )  # fmt: skip


def test_the_marked_checkpoint_is_filled_also_of_a_second_stage():
    points = [
        curve(method, step)
        for method in ("base", "sft", "sft_then_flow_grpo")
        for step in ((0,) if method == "base" else (50, 100))
    ]
    figure = draw_overoptimisation(
        points,
        FACTS,
        {"aesthetic": "Trained on"},
        {"sft": 50, "sft_then_flow_grpo": 50},
        "best:ocr",
    )
    (ax,) = figure.axes
    assert (ax.get_title(loc="left"), ax.get_ylabel()) == ("Aesthetic", "Trained on")
    assert figure.get_suptitle() == "Task: t"
    filled = {
        tuple(line.get_xdata())
        for line in ax.lines
        if len(line.get_xdata()) == 1 and line.get_marker() in ("s", "v")
    }
    # The second stage goes on where the first ended, at 100.
    assert filled == {(50,), (150,)}
    alone = [point for point in points if point.method == "sft_then_flow_grpo"]
    (ax,) = draw_overoptimisation(
        alone, FACTS, {"aesthetic": "Held out"}, {alone[0].method: 50}, "last"
    ).axes
    assert [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 1] == [[50]]
    assert "checkpoint by rule 'best:ocr'" in figure.legends[0].get_title().get_text()


def interval(value):
    return Interval(
        estimate=value, low=value - 0.1, high=value + 0.1, level=0.95, num_prompts=4, num_seeds=1
    )


def point(method, step, proxy, truth):
    return GamingPoint(
        method=method, step=step, since="base", proxy_gain=interval(proxy),
        true_gain=interval(truth), shortfall=interval(proxy - truth), correlation=interval(0.5),
    )  # fmt: skip


def measured(*points, task="t"):
    benchmark = Benchmark(
        counts=(2, 3), proxy_gains=(0.5, 0.7), true_gains=(0.25, 0.35), rate=interval(0.5)
    )
    return Gaming(
        task=task, proxy=FACTS["aesthetic"], truth=FACTS["oracle_aesthetic"], benchmark=benchmark,
        points=(point("base", 0, 0.0, 0.0), *points), levels={}, contrasts={},
        ends={one.method: one.step for one in points},
    )  # fmt: skip


def test_a_second_stage_gains_on_from_where_its_first_ended():
    points = [
        point("sft", 10, 0.2, 0.1),
        point("sft", 20, 0.5, 0.5),
        point("sft_then_flow_grpo", 10, 0.9, 0.6),
    ]
    # Gains since the first stage are a row of the table, and no point of the course.
    since = replace(points[-1], since="sft")
    plane, shortfall, correlation = draw_gaming([measured(*points, since)]).axes
    label = "SFT → Flow-GRPO"
    assert lines(plane)[label].get_xdata().tolist() == [0.5, 0.9]
    assert lines(plane)[label].get_ydata().tolist() == [0.5, 0.6]
    assert lines(plane)[label].get_markevery() == [1]
    for ax in (shortfall, correlation):
        assert lines(ax)[label].get_xdata().tolist() == [20, 30]
    np.testing.assert_allclose(lines(shortfall)[label].get_ydata(), [0.0, 0.3])
    # Where it started is not known without the first stage.
    _, shortfall, _ = draw_gaming([measured(*points[2:])]).axes
    assert lines(shortfall)[label].get_xdata().tolist() == [10]


def test_gains_start_at_the_base_beside_what_choosing_gains():
    figure = draw_gaming([measured(point("soar", 20, 0.8, 0.6), point("soar", 10, 0.5, 0.5))])
    plane, shortfall, _ = figure.axes
    assert lines(plane)["SOAR"].get_xdata().tolist() == [0.5, 0.8]
    assert lines(plane)["SOAR"].get_ydata().tolist() == [0.5, 0.6]
    assert lines(plane)["Base"].get_xydata().tolist() == [[0.0, 0.0]]
    assert lines(plane)["Best of 2 to 3 base images"].get_ydata().tolist() == [0.25, 0.35]
    np.testing.assert_allclose(lines(shortfall)["SOAR"].get_ydata(), [0.0, 0.2])


def test_two_images_a_prompt_are_the_best_of_2():
    both = measured(point("soar", 20, 0.8, 0.6))
    least = Benchmark(counts=(2,), proxy_gains=(0.5,), true_gains=(0.25,), rate=interval(0.5))
    (plane, *_) = draw_gaming([replace(both, benchmark=least)]).axes
    assert "Best of 2 base images" in lines(plane)


def test_every_row_of_gaming_is_named_by_its_task_and_score():
    one = point("soar", 20, 0.8, 0.6)
    bare = replace(measured(one), benchmark=None)
    points = tuple(replace(p, shortfall=None, correlation=None) for p in bare.points)
    figure = draw_gaming([measured(one, task="a"), replace(bare, points=points)])
    names = [ax.get_title(loc="left") for ax in figure.axes]
    assert names[::3] == ["a: Aesthetic", "t: Aesthetic"]
    assert names[1:3] == names[4:] == ["Gamed part of the gain", "Still ranks images?"]
    # An empty frame would look like a fault.
    assert [text.get_text() for ax in figure.axes[4:] for text in ax.texts] == [
        "needs 2 images a prompt"
    ] * 2


def test_exposure_bias_has_a_panel_a_measure_and_fills_what_is_decided():
    points = [
        ExposurePoint(
            task="t", measure=measure, level=level, sigma=level, method=method, value=0.4, low=0.3,
            high=0.5, change=change, change_low=change - 0.1, change_high=change + 0.1,
            baseline="sft", difference=change, difference_low=change - 0.1,
            difference_high=change + 0.1, adjusted_p_value=0.01,
            verdict=Verdict.BETTER if (method, level) == ("soar", 0.5) else None,
            num_images=8, num_seeds=2,
        )
        for measure in ("off_path", "own_states") for level in (0.75, 0.5)
        for method, change in (("base", 0.0), ("sft", -0.1), ("soar", -0.3))
    ]  # fmt: skip
    figure = draw_exposure(points)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "More of it off the path", "Own states, energy score",
    ]  # fmt: skip
    (ax, _) = figure.axes
    drawn = {bar.get_label(): bar.lines[0] for bar in ax.containers}
    assert set(drawn) == {"SFT", "SOAR"}
    faces = [bar.lines[0].get_markerfacecolor() for bar in ax.containers]
    assert [face == "white" for face in faces] == [True, True, True, False]
    assert [text.get_text() for text in ax.get_xticklabels()] == [
        "$\\sigma$ = 0.75", "$\\sigma$ = 0.5",
    ]  # fmt: skip


def test_names_of_many_samplers_do_not_run_into_each_other():
    samplers = [(n, 0.0, 4.5) for n in (5, 10, 20, 40)]
    samplers += [(40, 0.1, 4.5), (40, 0.2, 4.5), (40, 0.0, 1.0), (40, 0.0, 7.0)]
    points = [
        RobustnessPoint(
            task="t", metric="ocr", num_inference_steps=steps, state_noise=noise,
            guidance_scale=guidance, is_usual=(steps, noise, guidance) == (40, 0.0, 4.5),
            method=method, value=0.5, low=0.4, high=0.6, baseline="sft", interaction=0.0,
            interaction_low=-0.1, interaction_high=0.1, adjusted_p_value=None, verdict=None,
            num_prompts=9, num_seeds=3,
        )
        for steps, noise, guidance in samplers for method in ("sft", "soar")
    ]  # fmt: skip
    for ax in settle(draw_robustness(points, FACTS)).axes:
        labels = ax.get_xticklabels()
        assert [text.get_text() for text in labels][3:6] == ["40\n(usual)", "40\n+0.1", "40\n+0.2"]
        boxes = [text.get_window_extent() for text in labels]
        assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def test_bars_stand_on_the_base_and_differ_without_colour():
    bars = [
        Bar(
            task="t", metric="ocr", method=method, step=9, base=0.5, change=change,
            low=change - 0.1, high=change + 0.1, num_prompts=4, num_seeds=1,
        )
        for method, change in (("sft", 0.2), ("soar", -0.1), ("flow_grpo", 0.3))
    ]  # fmt: skip
    stages = ("sft_then_flow_grpo", "soar_then_flow_grpo")
    more = draw_bars([*bars, *(replace(bars[0], method=method) for method in stages)], FACTS)
    assert len({patch.get_hatch() for patch in more.axes[0].patches}) == 5
    figure = draw_bars(bars, FACTS)
    (ax,) = figure.axes
    assert [patch.get_height() for patch in ax.patches] == [0.2, -0.1, 0.3]
    assert [patch.get_y() for patch in ax.patches] == [0, 0, 0]
    assert len({patch.get_hatch() for patch in ax.patches}) == 3
    assert ax.get_ylabel() == "Change from base (0.500)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "SFT", "SOAR", "Flow-GRPO",
    ]  # fmt: skip


def test_no_text_of_a_settled_figure_overlaps_another_or_leaves_the_page():
    points = [
        curve(method, step, metric)
        for metric in ("aesthetic", "oracle_aesthetic", "entropy", "velocity_norm")
        for method in ("base", *[m for m in METHOD_STYLES if m != "base"])
        for step in ((0,) if method == "base" else (1000, 5000))
    ]
    roles = {"aesthetic": "Trained on", "oracle_aesthetic": "Oracle"}
    figure = settle(draw_overoptimisation(points, FACTS, roles, {"sft": 5000}, "last"))
    page = figure.bbox
    boxes = []
    for ax in figure.axes:
        texts = (ax.xaxis.label, ax.yaxis.label, ax._left_title)
        boxes += [text.get_window_extent() for text in texts]
    boxes.append(figure.legends[0].get_window_extent())
    for index, box in enumerate(boxes):
        assert page.x0 <= box.x0 <= box.x1 <= page.x1
        assert page.y0 <= box.y0 <= box.y1 <= page.y1
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_what_was_trained_on_comes_from_the_cells(tmp_path):
    cells = [Folder(method=method, task="aesthetic", **SMALL) for method in ("sft", "flow_grpo")]
    grid = write_grid(tmp_path / "grid", cells)
    stored = read_cells(grid)[0]
    assert trained_on(stored) == set()
    configs = (
        {"rewards": {"alignment": 1.0, "pkg.mine": 0.5}, "data": None},
        {"rewards": {}, "data": {"select_by": ["aesthetic"]}},
    )
    configured = [
        replace(cell, description={**cell.description, "config": config})
        for cell, config in zip(stored, configs, strict=True)
    ]
    assert trained_on(configured) == {"clipscore", "pkg.mine", "aesthetic"}


def test_long_names_and_wide_letters_stay_where_they_belong_on_a_sheet(store):
    """Names of grid=ablation ran into the next one, and wide letters into the images."""
    tiles = plan_sheet(read_cells(store)[0], "aesthetic")
    title = "SOAR with a stochastic branch and fresh noise"
    long = [
        replace(
            tile, prompt="W" * 60,
            cell=replace(tile.cell, description={**tile.cell.description, "title": title}),
        )
        for tile in tiles
    ]  # fmt: skip
    plain, sheet = (np.asarray(draw_sheet(one)).min(axis=-1) for one in (tiles, long))
    # What the heads took more than before is what moved down.
    more = len(sheet) - len(plain)
    assert more > 0
    np.testing.assert_array_equal(plain[44:, 176:], sheet[44 + more :, 176:])
    # Methods are 16 pixels apart.
    empty = (plain[44:] == 255).all(axis=0)
    gaps = [x for x in range(176, len(empty) - 15) if empty[x : x + 16].all()]
    assert len(gaps) == 2
    assert all((sheet[: 44 + more, x : x + 16] == 255).all() for x in gaps)


def test_sheets_are_rgb_pictures(reported):
    _, folder = reported
    with Image.open(folder / "samples_aesthetic.png") as sheet:
        assert sheet.mode == "RGB"
        assert sheet.width > sheet.height > 500
