import io
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from PIL import Image

from soarbench.common.plugins import conf_folders
from soarbench.config.composition import registered
from soarbench.report.figures.curves import BAND_TITLE, draw_curves
from soarbench.report.figures.layout import save, settle
from soarbench.report.figures.style import METHOD_STYLES, method_styles, style
from soarbench.report.numbers.curves import CurvePoint
from soarbench.report.numbers.reference import PublishedPoint
from tests.report.folders import FACTS


def point(method, step, value, task="aesthetic", metric="aesthetic", **spent):
    return CurvePoint(
        task=task, metric=metric, method=method, step=step, value=value, low=value - 0.1,
        high=value + 0.1, num_prompts=40, num_seeds=3, spent=spent,
    )  # fmt: skip


POINTS = [
    point("base", 0, 5.0, seconds=0.0),
    *(point("sft", step, 5.0 + step / 1000, seconds=step * 1.0) for step in (50, 100)),
    *(point("soar", step, 5.0 + step / 500, seconds=step * 9.0) for step in (50, 100)),
]


def lines(ax):
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def test_nothing_joins_the_shared_base_to_a_first_snapshot():
    (ax,) = draw_curves(POINTS, FACTS).axes
    assert lines(ax)["SFT"].get_xdata().tolist() == [50, 100]
    np.testing.assert_allclose(lines(ax)["SOAR"].get_ydata(), [5.1, 5.2])
    assert lines(ax)["Base"].get_xdata().tolist() == [0]
    assert lines(ax)["Base"].get_ydata()[0] == 5.0
    assert list(ax.get_xticks()) == [0, 50, 100]


def test_bands_are_the_intervals():
    (ax,) = draw_curves(POINTS, FACTS).axes
    path = ax.collections[0].get_paths()[0].vertices
    assert path[:, 1].min() == pytest.approx(4.95)
    assert path[:, 1].max() == pytest.approx(5.2)


def test_the_interval_of_a_single_snapshot_is_seen():
    """A band of one point would have no width, under a legend that speaks of bands."""
    (ax,) = draw_curves([POINTS[0], POINTS[1]], FACTS).axes
    (bar,) = (one for one in ax.collections if isinstance(one, LineCollection))
    np.testing.assert_allclose(bar.get_segments(), [[[50, 4.95], [50, 5.15]]])
    (ax,) = draw_curves(POINTS, FACTS).axes
    assert not any(isinstance(one, LineCollection) for one in ax.collections)


def test_differences_stand_below_their_metric_over_the_same_steps():
    leads = [point("soar", step, step / 1000) for step in (50, 100)]
    above, below = draw_curves(POINTS, FACTS, differences=leads, baseline="sft").axes
    assert lines(below)["SOAR"].get_xdata().tolist() == [50, 100]
    np.testing.assert_allclose(lines(below)["SOAR"].get_ydata(), [0.05, 0.1])
    assert below.get_ylabel() == "Difference to SFT"
    assert below.get_xlim() == above.get_xlim()
    # Over a cost, the baseline has no value at the same place.
    assert len(draw_curves(POINTS, FACTS, x="seconds", differences=leads).axes) == 1


def test_a_panel_a_task_and_no_more_axes_than_panels():
    more = [point("base", 0, 0.28, "alignment", "clipscore")]
    figure = draw_curves([*POINTS, *more], FACTS)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "Task: aesthetic",
        "Task: alignment",
    ]
    assert [ax.get_ylabel() for ax in figure.axes] == ["Aesthetic", "CLIPScore"]
    metrics = [point("base", 0, 0.5, "general", name) for name in FACTS]
    assert len(draw_curves(metrics, FACTS).axes) == 6


def test_lines_differ_without_colour_and_in_grey():
    styles = method_styles(["base", *registered("grid", conf_folders())["rivals"]["methods"]])
    assert len({str(look.dashes) for look in styles.values()}) == len(styles) == 12
    assert len({look.marker for look in styles.values()}) == len(styles)
    assert len({look.hatch for look in styles.values()}) == len(styles)
    grey = sorted(
        float(np.dot(to_rgb(look.color), (0.299, 0.587, 0.114))) for look in METHOD_STYLES.values()
    )
    assert min(np.diff(grey)) > 0.06


def test_as_many_variants_as_a_grid_takes_look_unlike_each_other():
    names = ["base", "sft", "soar", "flow_grpo", *(f"soar_at_{number}" for number in range(29))]
    styles = method_styles(names)
    assert len({(look.color, str(look.dashes), look.marker) for look in styles.values()}) == 33
    # By size, not by letters: 10 comes after 9.
    assert list(styles)[4:] == names[4:]
    rates = ["a_rate_1e-05", "a_rate_0.0003", "a_rate_0.001"]
    assert list(method_styles(rates)) == rates


def test_published_curves_only_when_passed_and_labelled_so():
    published = [
        PublishedPoint(
            task="aesthetic", metric="aesthetic", method="soar", step=step, text="5.4",
            read_from="vector",
        )
        for step in (0, 1000)
    ]  # fmt: skip
    assert set(lines(draw_curves(POINTS, FACTS).axes[0])) == {"SFT", "SOAR", "Base"}
    (ax,) = draw_curves(POINTS, FACTS, published=published).axes
    assert "SOAR, as published" in lines(ax)
    assert lines(ax)["SOAR, as published"].get_linewidth() < lines(ax)["SOAR"].get_linewidth()
    assert lines(ax)["SOAR, as published"].get_marker() == "."


def test_any_counter_can_be_the_axis():
    (ax,) = draw_curves(POINTS, FACTS, x="seconds").axes
    assert lines(ax)["SOAR"].get_xdata().tolist() == [450, 900]
    assert ax.get_xlabel() == "Seconds"


def test_the_legend_says_what_the_bands_are():
    (legend,) = draw_curves(POINTS, FACTS).legends
    assert legend.get_title().get_text() == BAND_TITLE
    # Lines that end side by side have their names there.
    assert [text.get_text() for text in legend.get_texts()] == ["Base"]
    figure = settle(draw_curves(POINTS, FACTS))
    names = {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}
    assert names["SOAR"].y0 > names["SFT"].y1
    assert max(box.x1 for box in names.values()) <= figure.bbox.x1
    (legend,) = draw_curves(POINTS, FACTS, x="seconds").legends
    assert [text.get_text() for text in legend.get_texts()] == ["SFT", "SOAR", "Base"]


def test_the_legend_of_one_panel_stays_on_the_page():
    methods = ("sft", "soar", "flow_grpo", "sft_then_flow_grpo", "soar_then_flow_grpo")
    more = [point(method, step, 5.0) for method in methods for step in (50, 100)]
    figure = settle(draw_curves([*POINTS[:1], *more], FACTS))
    page, box = figure.bbox, figure.legends[0].get_window_extent()
    assert page.x0 <= box.x0 < box.x1 <= page.x1
    assert box.y1 <= figure.axes[0].xaxis.label.get_window_extent().y0


@pytest.mark.parametrize("num_tasks", [1, 2])
def test_the_legend_of_many_long_names_stays_on_the_page(num_tasks):
    """Those of grid=ablation were cut off at both edges, names and all."""
    methods = ["sft_with_seven_points_a_row", "soar_with_a_stochastic_branch_and_fresh_noise"]
    methods += [f"soar_without_its_part_number_{number}" for number in range(13)]
    points = [
        point(method, step, 5.0, f"task_{task}")
        for task in range(num_tasks) for method in methods for step in (50, 100)
    ]  # fmt: skip
    leads = [one for one in points if one.method != "soar"]
    figure = settle(draw_curves(points, FACTS, differences=leads, baseline="soar"))
    page, box = figure.bbox, figure.legends[0].get_window_extent()
    assert page.x0 <= box.x0 < box.x1 <= page.x1
    # Nor is its room taken from the panels.
    assert min(ax.get_window_extent().height for ax in figure.axes) > 100


@pytest.mark.parametrize("steps", [(20, 40, 147, 293), (1000, 2000, 3000, 4000, 5000)])
def test_ticks_of_steps_do_not_run_into_each_other(steps):
    """The first are those of two methods at equal cost, of budget=quick."""
    points = [
        point(method, step, 0.5, metric=name)
        for name in ("geneval", "ocr", "clipscore") for method in ("sft", "soar") for step in steps
    ]  # fmt: skip
    starts = [point("base", 0, 0.5, metric=name) for name in ("geneval", "ocr", "clipscore")]
    for ax in settle(draw_curves([*starts, *points], FACTS)).axes:
        boxes = [one.get_window_extent() for one in ax.get_xticklabels() if one.get_text()]
        assert len(boxes) > 2
        assert all(one.x1 + 2 < other.x0 for one, other in itertools.pairwise(boxes))


def test_long_names_of_judges_and_tasks_are_folded():
    long = {k: replace(one, title=f"My own judge of likeness ({k})") for k, one in FACTS.items()}
    points = [
        point(method, step, 0.5, f"a_task_with_a_long_name_{task}", metric)
        for task in range(2) for metric in FACTS for method in ("sft", "soar") for step in (50, 99)
    ]  # fmt: skip
    figure = settle(draw_curves(points, long))
    texts = [text for ax in figure.axes for text in (ax._left_title, ax.yaxis.label)]
    boxes = [text.get_window_extent() for text in texts]
    assert all("\n" in text.get_text() for text in texts)
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    assert all(one.x0 >= 0 and one.y1 <= figure.bbox.y1 for one in boxes)


def test_large_counts_are_short_enough_for_three_panels():
    spent = [("base", 0, 0.0), ("soar", 100, 70400.0), ("soar", 200, 140800.0)]
    names = ("geneval", "ocr", "clipscore")
    found = [
        point(method, step, 0.5, metric=name, forward_equivalents=cost)
        for name in names for method, step, cost in spent
    ]  # fmt: skip
    figure = settle(draw_curves(found, FACTS, x="forward_equivalents"))
    labels = [label for label in figure.axes[0].get_xticklabels() if label.get_text()]
    assert "60k" in [label.get_text() for label in labels]
    boxes = [label.get_window_extent() for label in labels]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="x='epochs'"):
        draw_curves(POINTS, FACTS, x="epochs")
    with pytest.raises(ValueError, match="no point to draw"):
        draw_curves([], FACTS)


@pytest.mark.parametrize(
    ("file_format", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")]
)
def test_the_same_points_give_the_same_bytes(file_format, magic, tmp_path):
    written = []
    for name in ("first", "second"):
        save(draw_curves(POINTS, FACTS), tmp_path / name, file_format)
        written.append((tmp_path / name).read_bytes())
    assert written[0].startswith(magic)
    assert written[0] == written[1]


def test_a_png_is_small_and_looks_as_it_was_drawn(tmp_path):
    figure, drawn = settle(draw_curves(POINTS, FACTS)), io.BytesIO()
    save(figure, tmp_path / "curves.png", "png")
    with style():
        figure.savefig(drawn, format="png")
    assert (tmp_path / "curves.png").stat().st_size < drawn.getbuffer().nbytes / 2
    with Image.open(tmp_path / "curves.png") as few, Image.open(drawn) as plain:
        assert few.mode == "P"
        assert few.info["dpi"] == plain.info["dpi"]
        got, wanted = (np.asarray(image.convert("RGB"), int) for image in (few, plain))
    assert np.abs(got - wanted).max() <= 24
    assert (got[(wanted == 255).all(axis=-1)] == 255).all()


def test_a_browser_shows_the_value_of_every_marker_of_an_svg(tmp_path):
    save(draw_curves(POINTS, FACTS), tmp_path / "curves.svg", "svg")
    titles = re.findall("<title>(.*?)</title></use>", (tmp_path / "curves.svg").read_text())
    assert titles == [
        "SFT, 50 steps: 5.050 [4.950, 5.150]", "SFT, 100 steps: 5.100 [5.000, 5.200]",
        "SOAR, 50 steps: 5.100 [5.000, 5.200]", "SOAR, 100 steps: 5.200 [5.100, 5.300]",
    ]  # fmt: skip


def test_the_users_matplotlib_settings_change_nothing(monkeypatch):
    import matplotlib as mpl

    plain, changed = io.BytesIO(), io.BytesIO()
    save(draw_curves(POINTS, FACTS), plain, "png")
    monkeypatch.setitem(mpl.rcParams, "lines.linewidth", 9)
    monkeypatch.setitem(mpl.rcParams, "savefig.dpi", 40)
    save(draw_curves(POINTS, FACTS), changed, "png")
    assert plain.getvalue() == changed.getvalue()
    assert mpl.rcParams["lines.linewidth"] == 9
