import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console, Group

from soarbench.common.errors import StoreError
from soarbench.config.run import FORMATS
from soarbench.report import build
from soarbench.report.numbers.reference import published_curves, published_scores, published_table
from soarbench.report.text.console import report_parts
from tests.report.folders import Folder, base, build_report, main_table, reward_specific, write_grid

FILES = {
    "table.md", "table.csv", "table.tex", "matched.csv", "thresholds.csv", "trace.csv",
    "signs_of_gaming.csv",
    "published_layout.csv", "summary.json", "index.html", "figures.json",
    *(f"curves_forward_equivalents.{suffix}" for suffix in FORMATS),
}  # fmt: skip
FIGURES = (
    "forest", "curves", "bars", "gaming", "overoptimisation_aesthetic",
    "overoptimisation_alignment",
)  # fmt: skip
FILES |= {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "pdf", "svg", "csv")}
REFERENCE = Path(__file__).parents[2] / "results" / "reference"
SMALL = {"num_prompts": 24, "steps": (50, 100)}


def small_grid():
    return reward_specific(seeds=(0, 1, 2), num_prompts=24)


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A whole report of reward_specific: (report, grid folder, results folder)."""
    root = tmp_path_factory.mktemp("store")
    grid = write_grid(root / "runs" / "reward_specific", small_grid())
    shutil.copytree(REFERENCE, root / "results" / "reference")
    report = build_report(grid, root / "results", grid="reward_specific", formats=FORMATS)
    return report, grid, root / "results"


def test_all_files_are_written_and_nothing_else(reported):
    report, _, results = reported
    found = {path.name for path in (results / "reward_specific").iterdir()}
    # The sheets of the store, which has no images, are in the notes.
    assert found == FILES
    assert not report.gaps


def test_the_same_store_gives_the_same_bytes(reported):
    _, grid, results = reported
    folder = results / "reward_specific"
    before = {name: (folder / name).read_bytes() for name in FILES}
    build_report(grid, results, grid="reward_specific", formats=FORMATS)
    assert before == {name: (folder / name).read_bytes() for name in FILES}


def test_csv_has_a_line_a_task_method_and_metric(reported):
    _, _, results = reported
    rows = rows_of(results / "reward_specific" / "table.csv")
    assert len(rows) == 2 * 4 * 2
    soar = next(
        row for row in rows
        if (row["task"], row["method"], row["metric"]) == ("aesthetic", "soar", "aesthetic")
    )  # fmt: skip
    assert soar["verdict"] == "better"
    assert (
        float(soar["difference_low"]) < float(soar["difference"]) < float(soar["difference_high"])
    )
    assert float(soar["forward_equivalents"]) == 32 * 150 * 9
    assert soar["num_seeds"] == "3"
    assert soar["fingerprint"] == "f00d-aesthetic"
    assert "soar-aesthetic-seed1" in soar["cell_ids"]
    sft = next(row for row in rows if row["method"] == "sft")
    assert sft["difference"] == ""


def test_the_gap_between_reward_and_oracle_shows(reported):
    _, _, results = reported
    rows = rows_of(results / "reward_specific" / "table.csv")
    verdicts = {
        row["metric"]: row["verdict"]
        for row in rows
        if (row["task"], row["method"]) == ("aesthetic", "flow_grpo")
    }
    assert verdicts == {"aesthetic": "better", "oracle_aesthetic": "exploratory"}


def test_curves_csv_holds_what_is_drawn(reported):
    _, _, results = reported
    rows = rows_of(results / "reward_specific" / "curves.csv")
    assert {(row["task"], row["metric"]) for row in rows} == {
        ("aesthetic", "aesthetic"), ("alignment", "clipscore"),
    }  # fmt: skip
    assert len(rows) == 2 * (1 + 3 * 3)
    soar = [row for row in rows if row["task"] == "aesthetic" and row["method"] == "soar"]
    assert [int(row["step"]) for row in soar] == [50, 100, 150]
    assert [float(row["images_seen"]) for row in soar] == [1600, 3200, 4800]
    assert all(float(row["low"]) < float(row["value"]) < float(row["high"]) for row in rows)


def test_curves_end_at_the_tables_numbers(reported):
    _, _, results = reported
    table = {
        (row["task"], row["method"], row["metric"]): row["value"]
        for row in rows_of(results / "reward_specific" / "table.csv")
    }
    for row in rows_of(results / "reward_specific" / "curves.csv"):
        if row["step"] in ("0", "150"):
            assert table[row["task"], row["method"], row["metric"]] == row["value"]


def test_summary_is_strict_json_and_traces_every_number(reported):
    _, _, results = reported
    summary = json.loads((results / "reward_specific" / "summary.json").read_text())
    assert summary["partial"] is False
    assert [task["task"] for task in summary["tasks"]] == ["aesthetic", "alignment"]
    soar = summary["tasks"][0]["methods"]["soar"]
    assert soar["mlflow_run_ids"] == [f"run-{cell_id}" for cell_id in soar["cell_ids"]]
    assert summary["published"]["label"] == "as published"


def test_markdown_keeps_published_rows_apart(reported):
    _, _, results = reported
    text = (results / "reward_specific" / "table.md").read_text()
    measured, published = text.split("## As published")
    assert "| SOAR | 5000 | 5.94 | 0.300 |" in published
    assert "5.94" not in measured
    assert "better" in measured
    assert "after Holm's correction for 3 comparisons" in measured
    assert "All other metrics are exploratory" in measured
    heads = [line for line in measured.splitlines() if line.startswith("| Method | Seeds")]
    # A task's methods at their last steps, and at two equal costs.
    assert len(heads) == 2 * 3
    assert "Aesthetic (oracle) [95 %]" in heads[0]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_the_console_shows_whole_numbers(reported, width):
    report, _, _ = reported
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(Group(*report_parts(report)))
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= width
    scores, _, _ = text.partition("Seeds")
    # An interval that is broken in its middle cannot be read, nor a verdict that is cut.
    assert all(line.count("[") == line.count("]") for line in scores.splitlines())
    assert "…" not in scores
    if width >= 80:
        for word in ("Task: aesthetic", "Aesthetic (oracle)", "Flow-GRPO", "Forward", "better"):
            assert word in text
        assert "…" not in text


def test_main_table_has_a_block_a_metric_in_the_configured_order(tmp_path):
    grid = write_grid(tmp_path / "runs" / "main_table", main_table(num_prompts=24))
    shutil.copytree(REFERENCE, tmp_path / "results" / "reference")
    report = build_report(grid, tmp_path / "results", grid="main_table")
    (table,) = report.tables
    assert table.metrics == ("geneval", "clipscore", "ocr", "aesthetic", "oracle_aesthetic")
    text = (tmp_path / "results" / "main_table" / "table.md").read_text()
    assert "SD3.5-M + SOAR | 10000 | 0.78 | 0.67 | 22.86" in text
    assert "with one training seed they leave out what another seed would change" in text
    curves = (tmp_path / "results" / "main_table" / "curves.csv").read_text().splitlines()[1:]
    assert len({line.split(",")[1] for line in curves}) == 4


def test_holes_are_shown_and_the_report_is_marked_partial(tmp_path):
    cells = small_grid()
    broken = [
        Folder(method="soar", task="aesthetic", seed=0, state="failed", reason="reward gave NaN"),
        Folder(method="flow_grpo", task="aesthetic", seed=5, state="running"),
    ]
    cells = [cell for cell in cells if cell.cell_id not in {one.cell_id for one in broken}]
    cells = [
        cell for cell in cells if not (cell.method == "flow_grpo" and cell.task == "aesthetic")
    ]
    grid = write_grid(tmp_path / "grid", [*cells, *broken])
    report = build_report(grid, tmp_path, grid="grid")
    assert report.gaps
    text = (tmp_path / "grid" / "table.md").read_text()
    assert "**Partial report.**" in text
    assert f"{broken[0].cell_id}: failed: reward gave NaN" in text
    assert "| SOAR | 2 of 3 |" in text
    assert "| Flow-GRPO | 0 of 1 | - | - | - | - | - | - |" in text
    assert json.loads((tmp_path / "grid" / "summary.json").read_text())["partial"] is True
    lines = rows_of(tmp_path / "grid" / "table.csv")
    missing = next(row for row in lines if row["method"] == "flow_grpo")
    assert missing["value"] == ""
    assert missing["missing"].endswith("running")


def test_a_grid_of_which_all_trained_cells_failed_still_shows_its_holes(tmp_path):
    failed = Folder(method="sft", task="aesthetic", state="failed", reason="out of memory")
    grid = write_grid(tmp_path / "grid", [base(num_prompts=6), failed])
    report = build_report(grid, tmp_path, grid="grid", formats=("png",))
    assert report.gaps == (f"{failed.cell_id}: failed: out of memory",)
    assert "| SFT | 0 of 1 |" in (tmp_path / "grid" / "table.md").read_text()
    assert not (tmp_path / "grid" / "curves.png").exists()


def test_without_a_baseline_there_are_values_and_no_differences(tmp_path):
    cells = [base(**SMALL | {"steps": (0,)}), Folder(method="soar", task="aesthetic", **SMALL)]
    report = build_report(write_grid(tmp_path / "grid", cells), tmp_path, grid="grid")
    rows = {row.method: row for row in report.tables[0].rows}
    assert rows["soar"].estimates["aesthetic"].interval is not None
    assert not rows["soar"].comparisons
    (about, *_) = report.tables[0].notes()
    assert about.endswith("No difference is here: those to SFT need it and another method.")


def test_another_baseline_can_be_chosen(tmp_path):
    cells = [Folder(method=method, task="aesthetic", **SMALL) for method in ("sft", "soar")]
    report = build_report(
        write_grid(tmp_path / "grid", cells), tmp_path, grid="grid", baseline="soar"
    )
    rows = {row.method: row for row in report.tables[0].rows}
    assert set(rows["sft"].comparisons) == {"aesthetic", "oracle_aesthetic"}
    assert not rows["soar"].comparisons
    assert "vs SOAR" in (tmp_path / "grid" / "table.md").read_text()


@pytest.mark.parametrize(("lost", "has_star"), [(3, True), (48, False)])
def test_unscored_images_are_counted_and_make_the_report_partial(tmp_path, lost, has_star):
    cells = [
        Folder(method="sft", task="aesthetic", **SMALL),
        Folder(method="soar", task="aesthetic", unscored={"aesthetic": lost}, **SMALL),
    ]
    report = build_report(write_grid(tmp_path / "grid", cells), tmp_path, grid="grid")
    assert report.gaps[0] == f"SOAR, Aesthetic: {lost} images unscored (unreadable)"
    text = (tmp_path / "grid" / "table.md").read_text()
    assert ("]*<br>" in text) == ("leaves out images" in text) == has_star


def test_unlike_fingerprints_leave_the_old_report_as_it_was(tmp_path):
    cells = [Folder(method="sft", task="aesthetic", **SMALL)]
    grid = write_grid(tmp_path / "grid", cells)
    build_report(grid, tmp_path / "results", grid="grid")
    before = (tmp_path / "results" / "grid" / "table.md").read_bytes()
    write_grid(grid, [Folder(method="soar", task="aesthetic", fingerprint="beef", **SMALL)])
    with pytest.raises(StoreError, match="2 protocols"):
        build_report(grid, tmp_path / "results", grid="grid")
    assert (tmp_path / "results" / "grid" / "table.md").read_bytes() == before


def test_published_values_are_read_as_they_are_stored():
    points = published_curves(REFERENCE)
    assert len(points) == 36
    assert {point.read_from for point in points} == {"vector", "text"}
    table = published_table(REFERENCE, "reward_specific")
    assert table.iloc[0].tolist() == ["Base", "0", "5.36", "0.285"]
    assert len(published_table(REFERENCE, "main_table")) == 11
    anchors = published_table(REFERENCE, "anchors")
    assert anchors["GenEval"].tolist() == ["0.24", "0.63", "0.95", "0.66", "0.54", "0.94"]
    assert anchors["Guidance"].tolist() == ["1.0", "4.5", "4.5", "4.5", "4.5", "1.0"]
    ablation = published_table(REFERENCE, "ablation")
    assert ablation["Model"].tolist()[3:] == [
        "SOAR, stochastic branch", "SOAR, stochastic branch, fresh noise a path",
    ]  # fmt: skip
    assert ablation["Published in"].tolist()[2:4] == [
        "arXiv:2604.12617",
        "arXiv:2604.12617 (notes)",
    ]
    scores = published_scores(REFERENCE, "ablation", "general", "geneval")
    assert (scores["soar"], scores["soar_fresh_branch"]) == (0.78, 0.76)
    assert published_table(REFERENCE, "soar_then_grpo") is None


def test_a_missing_reference_folder_is_no_section(tmp_path):
    assert published_curves(tmp_path) == []
    assert published_table(tmp_path, "main_table") is None
    assert published_table(tmp_path, "reward_specific") is None


def test_the_cost_of_a_second_stage_has_its_first_in_it(tmp_path):
    cells = [
        Folder(method=method, task="aesthetic", seed=seed, **SMALL)
        for method in ("sft", "sft_then_flow_grpo")
        for seed in (0, 1)
    ]
    store = write_grid(tmp_path / "grid", [base(num_prompts=24), *cells])
    (table,) = build_report(store, tmp_path, grid="grid").tables
    _, first, second = table.rows
    assert first.budget["optimizer_steps"] == 100
    assert second.budget == pytest.approx({name: 2 * n for name, n in first.budget.items()})
    assert not any("leaves out" in note for note in table.notes())
    for cell in cells[:2]:
        shutil.rmtree(store / "cells" / cell.cell_id)
    (table,) = build_report(store, tmp_path, grid="grid").tables
    assert table.rows[1].budget == pytest.approx(first.budget)
    assert "The cost of SFT → Flow-GRPO leaves out its first stage" in " ".join(table.notes())


def test_a_report_far_from_the_checkout_has_the_published_rows(tmp_path):
    report = build_report(
        write_grid(tmp_path / "grid", small_grid()), tmp_path, grid="reward_specific"
    )
    assert report.published.equals(published_table(REFERENCE, "reward_specific"))
    assert report.notes == report.figures.notes


def test_published_rows_that_are_nowhere_are_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "OWN_REFERENCE", tmp_path / "nowhere")
    store = write_grid(tmp_path / "grid", small_grid())
    report = build_report(store, tmp_path, grid="reward_specific")
    assert report.published is None
    expected = f"Published rows: left out, {tmp_path / 'reference'} has none"
    assert report.notes[-1].startswith(expected)
    console = Console(width=400, record=True, file=io.StringIO())
    console.print(Group(*report_parts(report)))
    assert expected in console.export_text()


def test_published_rows_of_strangers_above_the_working_directory_are_not_read(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(build, "OWN_REFERENCE", tmp_path / "nowhere")
    shutil.copytree(REFERENCE, tmp_path / "reference")
    study = tmp_path / "mine" / "results" / "study"
    study.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "mine")
    assert build.reference_folder(study) == study / "reference"
    shutil.copytree(REFERENCE, tmp_path / "mine" / "results" / "reference")
    assert build.reference_folder(study) == tmp_path / "mine" / "results" / "reference"


def test_a_reference_file_of_other_columns_is_refused(tmp_path):
    (tmp_path / "published_rows.csv").write_text("row,value\nx,1\n")
    with pytest.raises(StoreError, match="iterations, ocr"):
        published_table(tmp_path, "main_table")


def test_published_curves_are_drawn_when_asked(reported, tmp_path):
    _, grid, results = reported
    shutil.copytree(results / "reference", tmp_path / "reference")
    build_report(grid, tmp_path, grid="reward_specific", show_published=True, formats=("png",))
    plain = (results / "reward_specific" / "curves.png").read_bytes()
    assert (tmp_path / "reward_specific" / "curves.png").read_bytes() != plain


def test_no_model_framework_is_imported():
    code = (
        "import sys, soarbench.report.build, soarbench.stats;"
        "import soarbench.report.figures.curves;"
        "heavy = {'torch', 'transformers', 'diffusers', 'mlflow'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
