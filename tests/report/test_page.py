import itertools
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from soarbench.common.files import read_json
from soarbench.report.numbers.panels import build_panels
from soarbench.report.numbers.samples import read_samples, shown_steps
from soarbench.report.numbers.tables import difference_text, finding
from soarbench.report.page.facts import facts
from soarbench.report.page.figures import figures
from soarbench.report.page.plot import task_plot
from soarbench.report.page.samples import samples
from soarbench.report.report import FigureEntry
from soarbench.report.text.headline import headline
from soarbench.stats import Verdict
from soarbench.store.cells import Cell, Launch
from tests.report.folders import (
    Folder,
    base,
    build_report,
    image_file,
    read_cells,
    reward_specific,
    write_grid,
)

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
VOID = {"meta", "link", "img", "br", "input", "col"}


class Page(HTMLParser):
    """Elements of a page with their attributes, and whether every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts.setdefault(tag, []).append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def draw_images(grid_folder, prompts=("drawbench-00000", "geneval-00000")):
    """One small image a prompt and step, of another colour for every cell."""
    for index, folder in enumerate(sorted((grid_folder / "cells").iterdir())):
        for step in json.loads((folder / "config.json").read_text())["steps"]:
            for prompt in prompts:
                path = image_file(folder, step, prompt, 0)
                path.parent.mkdir(parents=True)
                Image.new("RGB", (32, 32), (20 * index, step % 256, 90)).save(path)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    grid = write_grid(root / "runs" / "reward_specific", reward_specific(num_prompts=12))
    draw_images(grid)
    shutil.copytree(REFERENCE, root / "results" / "reference")
    # Drawings alone are written in less time than pictures.
    return build_report(grid, root / "results", grid="reward_specific", formats=("svg",))


@pytest.fixture(scope="module")
def page(report):
    return Page((report.folder / "index.html").read_text())


def test_every_element_is_closed_and_every_id_is_one(page):
    assert not page.open
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for attributes in page.of("a"):
        assert attributes["href"].removeprefix("#") in ids
    for _, attributes in page.elements:
        if "aria-labelledby" in attributes:
            assert attributes["aria-labelledby"] in ids


def test_nothing_is_fetched(page, report):
    for _, attributes in page.elements:
        for name in ("src", "href"):
            if attributes.get(name):
                assert attributes[name].startswith(("data:", "#"))
    text = (report.folder / "index.html").read_text()
    assert set(re.findall(r"url\((.)", text)) == {"#"}
    assert "://" not in re.sub("<(code|td|pre|meta)[ >].*?</?", "", text)
    assert "@import" not in text
    policy = next(one for one in page.of("meta") if "http-equiv" in one)["content"]
    assert policy.startswith("default-src 'none'")


def test_readers_of_screens_find_their_way(page):
    assert page.of("html") == [{"lang": "en"}]
    assert [tag for tag, _ in page.elements if tag in ("header", "nav", "main", "footer")] == [
        "header", "nav", "main", "footer",
    ]  # fmt: skip
    assert len(page.of("h1")) == 1
    assert len(page.of("caption")) == len(page.of("table"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.of("th"))
    assert all(attributes.get("alt") for attributes in page.of("img"))
    regions = [one for one in page.of("div") if one.get("class") == "scroll"]
    assert regions
    assert all(one["tabindex"] == "0" and one["aria-label"] for one in regions)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    style = "".join(page.texts["style"])
    for word in ("prefers-color-scheme: dark", ":focus-visible", "@media print"):
        assert word in style


def test_a_figure_refers_to_its_own_parts_alone(page):
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    uses = [one["href"] for one in page.of("use")]
    clips = [one["clip-path"] for _, one in page.elements if "clip-path" in one]
    targets = {re.fullmatch(r"(?:url\()?#([\w-]+)\)?", text)[1] for text in (*uses, *clips)}
    assert {name.partition("-")[0] for name in targets} >= {"f0", "f1", "f2"}
    assert targets <= ids


def test_the_first_section_is_a_headline_and_the_paired_differences(page, report):
    (description,) = (one for one in page.of("meta") if one.get("name") == "description")
    for table in report.tables:
        own = [part for part in report.forest if part.table.task == table.task]
        assert headline(own) in description["content"]
        # In the numbers of the findings, whatever the sentence around them.
        for one in own[0].comparisons:
            assert difference_text(one) in headline(own)
            assert any(difference_text(one) in text for text in table.findings())
    labels = [one["aria-label"] for one in page.of("svg")]
    plots = [label for label in labels if not label.startswith("Figure: ")]
    compared = [one for part in report.forest for one in part.comparisons]
    assert plots == [finding(one) for one in compared]
    assert page.texts["tfoot"].count("better →") == len(report.tables)


def test_places_of_a_plot_are_shares_of_its_tasks_axis(report):
    plot = task_plot("aesthetic", report.forest)
    intervals = [one.difference for part in report.forest[:1] for one in part.comparisons]
    rows = plot.parts[0].rows
    for interval, row in zip(intervals, rows, strict=True):
        low, middle, high = row.places
        assert 0 < low < middle < high < 100
        # Zero lies on the same scale.
        share = (plot.zero - low) / (high - low)
        assert share == pytest.approx(-interval.low / (interval.high - interval.low), abs=0.02)


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (Verdict.WORSE, "SOAR is worse ("),
        (Verdict.CHECKPOINT_BETTER, "SOAR, this checkpoint, is better ("),
        (Verdict.TOO_FEW_PROMPTS, "SOAR has too few prompts and"),
    ],
)
def test_a_headline_says_every_verdict_as_a_sentence(report, verdict, text):
    part = report.forest[0]
    first, second = part.comparisons
    sentence = headline([replace(part, comparisons=(replace(first, verdict=verdict), second))])
    assert sentence.startswith(f"At the last step, by Aesthetic against SFT, {text}")
    assert sentence.endswith(").")


def test_a_headline_says_that_nothing_is_decided(report):
    last = report.forest[0]
    costs = [part for part in report.forest if part.matched is not None]
    open_ones = [replace(part, comparisons=()) for part in costs]
    assert headline([last, *open_ones]).endswith("; at equal cost nothing is decided.")
    assert headline(open_ones) == "Nothing can be compared yet."


def test_the_head_says_what_was_run(report):
    config = {
        "model": {"name": "lab", "resolution": 64}, "training": {"steps": 1200, "batch_size": 32},
    }  # fmt: skip
    launches = (Launch(command="python -m soarbench run", git_commit="0123456789abcdef"),)
    cells = [
        replace(cell, description={**cell.description, "config": config}, launches=launches)
        for cell in report.cells
    ]
    values = facts(replace(report, cells=tuple(cells)))
    assert values["Methods"] == ["SFT, SOAR, Flow-GRPO"]
    assert values["Model"] == ["lab, 64 px"]
    assert values["Budget"] == ["1,200 steps of 32 images"]
    assert values["Prompts"] == ["12 of drawbench", "12 of geneval"]
    assert values["Training seeds"]
    assert (values["Command"], values["Commit"]) == (["python -m soarbench run"], ["0123456789ab"])
    assert values["Begun"] == ["1970-01-01"]
    assert "Model" not in facts(report)  # these cells do not say it


def test_samples_are_sorted_by_gain(report):
    part = report.samples[0]
    prompts = {f"p{i}": f"prompt {i}" for i in range(3)}
    gains = {"p0": 0.1, "p1": -0.3, "p2": None}
    some = next(iter(part.samples.values()))
    images = {
        (method, 150, key): replace(
            some, method=method, step=150, prompt_id=key,
            score=None if gain is None else 5.0 + (method == "soar") * gain,
        )
        for key, gain in gains.items() for method in ("sft", "soar")
    }  # fmt: skip
    parts = [replace(part, prompts=prompts, samples=images)]
    ((gallery,), _) = samples(parts, {part.task: "sft"})
    assert [row["prompt"] for row in gallery["rows"]] == ["prompt 0", "prompt 1", "prompt 2"]
    lower = replace(part.facts, higher_is_better=False)
    ((gallery,), _) = samples([replace(parts[0], facts=lower)], {part.task: "sft"})
    assert [row["prompt"] for row in gallery["rows"]] == ["prompt 1", "prompt 0", "prompt 2"]


def test_samples_stand_side_by_side(page):
    buttons = [one for one in page.of("button") if "data-method" in one]
    assert [one["data-method"] for one in buttons] == ["base", "sft", "soar", "flow_grpo"] * 2
    images = [one for one in page.of("img") if "data-step" in one]
    scores = [one["data-score"] for one in page.of("figure") if "data-step" in one]
    assert len(scores) == len(images)
    assert all(re.fullmatch(r"[\d.]+", score) for score in scores)
    assert "Samples, task aesthetic" not in "".join(page.texts["strong"])  # the sheet of the same
    # Per task: one prompt with images; the base once, three methods at three steps.
    assert len(images) == 2 * (1 + 3 * 3)
    assert "SOAR, step 150: a photo" in {one["alt"] for one in images}
    assert len({one["src"] for one in images}) > 10


def test_samples_of_a_second_stage_say_in_which_stage_a_step_counts(tmp_path):
    methods = ("sft", "sft_then_flow_grpo")
    cells = [Folder(method=name, task="aesthetic", seed=0, num_prompts=12) for name in methods]
    grid = write_grid(tmp_path / "grid", [base(num_prompts=12), *cells])
    draw_images(grid)
    report = build_report(grid, tmp_path / "results", grid="grid")
    page = Page((report.folder / "index.html").read_text())
    titles = {one["alt"].partition(":")[0] for one in page.of("img") if "data-step" in one}
    last = max(cells[0].steps)
    assert {f"SFT, step {last}", f"SFT → Flow-GRPO, stage 2, step {last}"} <= titles
    assert "Step of the last stage " in page.texts["label"]


def test_a_dash_at_equal_cost_has_its_reason_below_the_table(page):
    texts = [text for text in page.texts["p"] if "not measured between" in text]
    assert texts
    assert all("budget.costs=[" in text for text in texts)
    assert {text.partition(":")[0] for text in texts} == {"SOAR", "Flow-GRPO"}


def test_numbers_can_be_traced(page, report):
    cells = "".join(page.texts["td"]) + "".join(page.texts["th"])
    for cell in report.cells:
        assert cell.mlflow_run_id in cells
    assert "f00d-aesthetic" in "".join(page.texts["summary"])


def test_a_page_without_gaps_is_not_called_partial(page):
    assert "Partial" not in "".join(page.texts["main"])
    assert not [one for one in page.of("div") if one.get("class") == "partial"]


def test_published_numbers_have_a_table_of_their_own(page):
    captions = "".join(page.texts["caption"])
    assert "As published: arXiv:2604.12617" in captions
    assert "Measured here" in captions


def test_what_stores_hold_cannot_write_html(tmp_path):
    evil = "<script>alert('x')</script>"
    failed = Folder(method="sft", task="aesthetic", seed=1, state="failed", reason=evil)
    cells = [base(num_prompts=6), Folder(method="sft", task="aesthetic", num_prompts=6), failed]
    report = build_report(write_grid(tmp_path / "grid", cells), tmp_path, grid="grid")
    text = (report.folder / "index.html").read_text()
    assert evil not in text
    assert "&lt;script&gt;" in text
    page = Page(text)
    assert len(page.of("script")) == 1
    assert "Partial report." in "".join(page.texts["strong"])
    assert "(partial)" in "".join(page.texts["title"])


def test_a_store_without_images_says_so(tmp_path):
    cells = [base(num_prompts=6), Folder(method="sft", task="aesthetic", num_prompts=6)]
    report = build_report(write_grid(tmp_path / "grid", cells), tmp_path, grid="grid")
    assert "holds no images" in (report.folder / "index.html").read_text()


def test_figures_stand_in_the_order_of_the_index_with_their_data(report):
    shown = figures(report.figures.entries, report.folder)
    stems = [one["name"].partition(".")[0] for one in shown]
    assert stems[:3] == ["forest", "curves", "curves_forward_equivalents"]
    listed = read_json(report.folder / "figures.json")["figures"]
    assert [one["caption"] for one in shown] == [entry["caption"] for entry in listed]
    for one in shown:
        is_sheet = one["name"].startswith("samples")
        assert one["svg"].startswith("<svg ") is not is_sheet
        assert one["source"].startswith("data:image/png") is is_sheet
    assert "<title>SOAR against SFT, Aesthetic: " in shown[0]["svg"]
    data = shown[1]["data"]
    assert data.heads[:3] == ("task", "metric", "method")
    assert data.texts == 3
    assert [cell.text for cell in data.rows[0]][3] == "0"
    assert all(len(cell.text) < 12 for cell in data.rows[0])


def test_a_figure_that_is_too_large_is_named_and_not_embedded(report, tmp_path):
    (tmp_path / "huge.png").write_bytes(b"0" * 1_600_000)
    shutil.copy(report.folder / "bars.csv", tmp_path / "huge.csv")
    entry = FigureEntry(name="huge", title="Huge", caption="", files=("huge.png",), data="huge.csv")
    (one,) = figures([entry], tmp_path)
    assert one["source"] == ""
    assert one["name"] == "huge.png"


def test_samples_are_of_the_lowest_seed_and_show_the_prompts_text(tmp_path):
    grid = write_grid(
        tmp_path / "grid",
        [base(num_prompts=6)]
        + [Folder(method="sft", task="aesthetic", seed=seed, num_prompts=6) for seed in (3, 1)],
    )
    draw_images(grid, ("drawbench-00002",))
    cells, _ = read_cells(grid)
    panel = build_panels(cells)[0]["aesthetic", "aesthetic"]
    found = read_samples(cells, panel)
    assert {one.seed for one in found.samples.values() if one.method == "sft"} == {1}
    assert found.steps == [50, 100, 150]
    assert set(found.prompts.values()) == {"a photo"}


def shown(**steps):
    cells = [
        Cell(
            tables=None, state="finished",
            description={"method": name, "task": "base" if name == "base" else "t", "steps": own},
        )
        for name, own in {"base": [0], **steps}.items()
    ]  # fmt: skip
    return shown_steps(cells)


def test_samples_are_of_steps_that_all_methods_have_and_of_each_ones_last():
    found = shown(sft=[20, 40, 60], soar=[8, 20, 40, 44, 60])
    assert found == {"base": [0], "sft": [20, 40, 60], "soar": [20, 40, 60]}
    found = shown(sft=[20, 60], soar=[8, 20, 50])
    assert found == {"base": [0], "sft": [20, 60], "soar": [20, 50]}
    assert shown(sft=[20, 60], soar=[8, 50]) == {"base": [0], "sft": [20, 60], "soar": [8, 50]}
    assert shown() == {"base": [0]}
