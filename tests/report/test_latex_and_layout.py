import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from soarbench.report.text.latex import escaped
from tests.report.folders import Folder, build_report, main_table, reward_specific, write_grid

REFERENCE = Path(__file__).parents[2] / "results" / "reference"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Folders of both grids' reports, by grid."""
    root = tmp_path_factory.mktemp("store")
    shutil.copytree(REFERENCE, root / "results" / "reference")
    grids = {
        "main_table": main_table(num_prompts=24),
        "reward_specific": reward_specific(seeds=(0,), num_prompts=12),
    }
    return {
        grid: build_report(write_grid(root / "runs" / grid, cells), root / "results", grid=grid)
        for grid, cells in grids.items()
    }


def tabulars(text):
    """Every tabular of a LaTeX text: (number of columns, lines with cells)."""
    for columns, body in re.findall(
        r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S
    ):
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        yield len(columns), lines


@pytest.mark.parametrize("grid", ["main_table", "reward_specific"])
def test_latex_has_whole_rows_between_rules(reports, grid):
    text = (reports[grid].folder / "table.tex").read_text()
    found = list(tabulars(text))
    assert len(found) == len(reports[grid].tables) + 1
    for columns, lines in found:
        for line in lines:
            if not line.startswith(r"\multicolumn"):
                assert len(re.findall(r"(?<!\\)&", line)) == columns - 1, line
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == len(found)
    assert text.count("{") == text.count("}")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == len(found)
    assert not re.search(r"(?<!\\)[_#]", re.sub(r"\\label\{[^}]*\}", "", text))


def test_latex_marks_verdicts_and_keeps_published_rows_below_their_heading(reports):
    text = (reports["main_table"].folder / "table.tex").read_text()
    # Four prompts of each of GenEval's tasks do not decide; aesthetic scores of twelve do.
    assert r"$\uparrow$" not in text
    decided = (reports["reward_specific"].folder / "table.tex").read_text()
    assert r"$\uparrow$" in decided
    measured, published = text.split(r"\emph{As published: ")
    assert "SD3.5-M + SOAR" not in measured
    assert "SD3.5-M + SOAR" in published
    assert r"\emph{Measured}" in measured


def test_differences_stand_below_their_values_with_minus_signs(reports):
    table = reports["main_table"].tables[0]
    _, lines = next(tabulars((reports["main_table"].folder / "table.tex").read_text()))
    cells = [[cell.strip() for cell in line.removesuffix(r" \\").split(" & ")] for line in lines]
    names = [row[0] for row in cells]
    assert names == ["Method", "Base", "", "SFT", "SOAR", ""]  # the baseline has no difference
    base = table.rows[0].comparisons["geneval"].difference
    assert base.estimate < 0
    assert cells[2][2].startswith(f"$-${-base.estimate:.3f} [$-$")
    assert cells[2][-4:] == [""] * 4
    assert cells[1][-4:] == ["-"] * 4  # nothing spent is no sign


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("pdflatex") is None,
    reason="no pdflatex: apt-get install -y texlive-latex-recommended",
)
@pytest.mark.parametrize("grid", ["main_table", "reward_specific"])
def test_latex_is_typeset_within_the_page(reports, grid, tmp_path):
    shutil.copy(reports[grid].folder / "table.tex", tmp_path)
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}"
        "\\begin{document}\\input{table}\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert (tmp_path / "paper.pdf").stat().st_size > 0


def test_letters_that_latex_reads_otherwise_are_escaped():
    assert escaped("5 % of a_b & {c}") == r"5 \% of a\_b \& \{c\}"
    # In text a bare < is an upside-down exclamation mark by LaTeX's own fonts.
    assert escaped("p < 0.05") == "p $<$ 0.05"
    assert escaped("SFT → Flow-GRPO") == r"SFT $\rightarrow$ Flow-GRPO"
    assert escaped("\\x^~") == r"\textbackslash{}x\textasciicircum{}\textasciitilde{}"


def test_the_layout_has_the_published_columns_in_their_order(reports):
    report = reports["main_table"]
    with (REFERENCE / "paper_table.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        (other,) = report.published[report.published["Model"] == row["model"]].to_dict("records")
        assert set(row.values()) <= set(other.values()), row
    assert tuple(report.published.columns[9:]) == ("Resolution", "Guidance", "Published in")
    assert tuple(report.published.columns[2:9]) == (
        "GenEval", "OCR", "PickScore", "CLIPScore", "HPSv2.1", "Aesthetic", "ImageReward",
    )  # fmt: skip
    lines = list(csv.DictReader(io.StringIO((report.folder / "published_layout.csv").read_text())))
    assert tuple(lines[0]) == ("Source", *report.published.columns)
    measured = [line for line in lines if line["Source"] == "measured"]
    assert [line["Model"] for line in measured] == ["model", "model + SFT", "model + SOAR"]
    assert measured[1]["PickScore"] == "-"
    value = report.tables[0].rows[1].estimates["geneval"].interval.estimate
    assert measured[1]["GenEval"].startswith(f"{value:.3f} [")
    assert {line["Source"] for line in lines} == {"measured", "as published"}
    assert len(lines) == 3 + 11


def test_a_metric_of_several_tasks_names_its_task(reports):
    report = reports["reward_specific"]
    assert tuple(report.measured.columns) == (
        "Method", "Steps", "Aesthetic (task aesthetic)", "CLIPScore (task alignment)",
    )  # fmt: skip
    rows = {row[0]: row for row in report.measured.to_numpy().tolist()}
    assert rows["Base"][1] == "0"
    assert rows["SOAR"][1] == "150"
    assert rows["SOAR"][2].startswith(
        f"{report.tables[0].rows[2].estimates['aesthetic'].interval.estimate:.3f}"
    )


def test_a_narrowed_grid_fills_the_column_of_the_task_that_is_left(tmp_path):
    cells = [cell for cell in reward_specific(num_prompts=12) if cell.task != "alignment"]
    report = build_report(write_grid(tmp_path / "grid", cells), tmp_path, grid="reward_specific")
    by_method = {row[0]: row[2:] for row in report.measured.to_numpy().tolist()}
    for name, (aesthetic, clipscore) in by_method.items():
        assert re.match(r"\d", aesthetic), name
        assert clipscore == "-"


def test_a_grid_that_the_paper_lacks_has_no_layout(tmp_path):
    grid = write_grid(
        tmp_path / "grid", [Folder(method="sft", task="aesthetic", num_prompts=6, steps=(10,))]
    )
    report = build_report(grid, tmp_path, grid="grid")
    assert report.measured is None
    assert not (report.folder / "published_layout.csv").exists()
    assert list(tabulars((report.folder / "table.tex").read_text()))
