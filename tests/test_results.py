"""What is published under results/: small, linked, and made again by today's program."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from soarbench.cli.report import report
from soarbench.common.errors import UserError
from soarbench.report.leaderboard import entries
from soarbench.report.options import ReportOptions
from soarbench.store.exports import MANIFEST, Export

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
# Not everything below it: runs write their reports there, which git ignores.
PUBLISHED = [
    path for name in ("gpu", "lab", "reference") for path in (RESULTS / name).rglob("*")
    if path.is_file()
]  # fmt: skip
EXPORTS = sorted(path.parent for path in PUBLISHED if path.name == MANIFEST)
PAGES = [
    ROOT / "README.md",
    *(path for path in PUBLISHED if path.suffix == ".md"),
    *(ROOT / "docs").rglob("*.md"),
]


def linked() -> set[Path]:
    """Every file that a page links or shows."""
    return {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)#:\s]+)[^)]*\)", page.read_text())
    }


def test_results_stay_small() -> None:
    assert len(PUBLISHED) <= 84
    assert sum(path.stat().st_size for path in PUBLISHED) <= 6e6


def test_every_picture_and_table_is_linked_and_every_link_leads_somewhere() -> None:
    targets = linked()
    pictures = {path for path in PUBLISHED if path.suffix in (".png", ".svg", ".pdf")}
    assert pictures <= targets
    assert set(RESULTS.glob("lab/**/table.md")) <= targets
    missing = [path for path in targets if RESULTS in path.parents and not path.exists()]
    assert missing == []


def test_there_are_exports() -> None:
    names = {"ablation", "main_table", "reward_specific", "soar_then_grpo", "rivals"}
    names |= {"tuning", "tuning_rivals"}
    assert {path.name for path in EXPORTS} == names


def test_trials_of_settings_are_no_results_of_a_leaderboard() -> None:
    standard = RESULTS / "lab" / "standard"
    names = {entry.name for entry in entries([standard])}
    assert "standard/main_table" in names
    assert not any("tuning" in name for name in names)
    with pytest.raises(UserError, match=r"tuning: trials choose settings and are no results"):
        entries([standard / "tuning"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "table", "more"),
    [
        *(pytest.param(path, path.name, [], id=path.name) for path in EXPORTS),
        pytest.param(
            RESULTS / "lab" / "standard" / "rivals", "rivals_to_soar", ["grid.baseline=soar"],
            id="rivals to SOAR",
        ),
    ],
)  # fmt: skip
def test_a_published_export_gives_its_published_table(
    folder: Path, table: str, more: list[str], tmp_path: Path
) -> None:
    words = [f"grid={folder.name}", f"output_dir={folder.parent}", f"results_dir={tmp_path}", *more]
    # Figures would take two thirds of the time.
    words.append("figure_formats=[]")
    assert report(ReportOptions(), words, console=Console(file=io.StringIO())) == 0
    made = (tmp_path / folder.name / "table.md").read_text()
    assert made == (folder.parent / "report" / table / "table.md").read_text()


@pytest.mark.parametrize("folder", EXPORTS, ids=lambda path: path.name)
def test_an_export_says_what_its_judges_measure_and_who_made_it(folder: Path) -> None:
    cells = Export(folder).cells()
    assert cells
    for cell in cells:
        assert cell.state == "finished"
        assert cell.launches
        assert {judge for _, judge in cell.protocols()} == set(cell.metrics)
        for protocol in cell.protocols().values():
            facts = protocol["judge"]
            assert isinstance(facts, dict)
            assert {"title", "decimals", "higher_is_better"} <= facts.keys()
