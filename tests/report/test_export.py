"""``export`` and reports of what it wrote: no images, no weights, the same numbers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from soarbench.report.export import ExportOptions, export
from soarbench.store.grids import MANIFEST, stored_grid

from soarbench.cli.run import report, run_plan
from soarbench.cli.words import read
from soarbench.common.errors import ConfigError, UserError
from soarbench.grid.expand import expand
from soarbench.report.options import ReportOptions
from tests.fakes import FakeBench

TABLES = ("table.csv", "table.md", "matched.csv", "thresholds.csv", "trace.csv", "curves.csv")


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def finished(overrides: list[str]) -> list[str]:
    """The arguments of a grid that has run."""
    arguments = [*overrides, "tracking=none", "task=aesthetic"]
    assert run_plan(expand(arguments), console=quiet(), make_bench=lambda _: FakeBench()) == 0
    return arguments


def folder_of(arguments: list[str], key: str) -> Path:
    return Path(next(word.partition("=")[2] for word in arguments if word.startswith(f"{key}=")))


def test_a_copy_reports_the_same_numbers(finished: list[str], tmp_path: Path) -> None:
    copy, results = tmp_path / "copy", tmp_path / "again"
    assert export(ExportOptions(output=copy), finished, console=quiet()) == 0
    assert (
        report(ReportOptions(), [f"output_dir={copy}", f"results_dir={results}"], console=quiet())
        == 0
    )
    before = folder_of(finished, "results_dir") / "reward_specific"
    for name in TABLES:
        assert (results / "reward_specific" / name).read_text() == (before / name).read_text(), name


def test_a_copy_holds_no_images_weights_or_checkpoints(finished: list[str], tmp_path: Path) -> None:
    export(ExportOptions(output=tmp_path / "copy"), finished, console=quiet())
    files = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".parquet", ".jpg"}
    assert not [path for path in files if {"images", "snapshots"} & set(path.parts)]
    strips = [path for path in files if path.suffix == ".jpg"]
    with Image.open(strips[0]) as strip:
        prompts = json.loads((strips[0].parent / "prompts.json").read_text())
        assert strip.width == len(prompts) * strip.height


def test_the_page_of_a_copy_shows_the_samples(finished: list[str], tmp_path: Path) -> None:
    export(ExportOptions(output=tmp_path / "copy"), finished, console=quiet())
    report(
        ReportOptions(),
        [f"output_dir={tmp_path / 'copy'}", f"results_dir={tmp_path}"],
        console=quiet(),
    )
    text = (tmp_path / "reward_specific" / "index.html").read_text()
    assert "data-step" in text
    assert "holds no images" not in text
    for path in (tmp_path / "copy").rglob("*.jpg"):
        path.unlink()
    report(
        ReportOptions(),
        [f"output_dir={tmp_path / 'copy'}", f"results_dir={tmp_path}"],
        console=quiet(),
    )
    assert "holds no images" in (tmp_path / "reward_specific" / "index.html").read_text()


def test_exporting_again_adds_what_is_new_and_leaves_the_rest(
    finished: list[str], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    sft = [*finished, "method=sft"]
    export(ExportOptions(output=copy), sft, console=quiet())
    path = next((copy / "reward_specific" / "cells").glob("sft-*/status.json"))
    changed = path.stat().st_mtime_ns
    # As if the base had been followed on this data since.
    later = next((copy / "reward_specific" / "cells").glob("base-*/diagnostics/norms.*"))
    later.unlink()
    export(ExportOptions(output=copy), finished, console=quiet())
    listed = json.loads((copy / "reward_specific" / MANIFEST).read_text())["cells"]
    assert sorted(cell["method"] for cell in listed) == ["base", "flow_grpo", "sft", "soar"]
    assert path.stat().st_mtime_ns == changed
    assert later.is_file()


def test_cells_of_unknown_origin_get_a_command_that_makes_them(
    finished: list[str], tmp_path: Path
) -> None:
    for path in folder_of(finished, "output_dir").rglob("launches.json"):
        path.unlink()
    export(ExportOptions(output=tmp_path / "copy"), finished, console=quiet())
    launches = json.loads(next((tmp_path / "copy").rglob("launches.json")).read_text())["launches"]
    assert launches[0]["command"].startswith("python -m soarbench run grid=reward_specific")
    assert "output_dir" not in launches[0]["command"]
    assert launches[0]["git_commit"] == "unknown"


def test_commands_of_a_copy_name_no_folder_of_this_machine(
    finished: list[str], tmp_path: Path
) -> None:
    for path in folder_of(finished, "output_dir").rglob("launches.json"):
        stored = json.loads(path.read_text())
        stored["launches"][0]["command"] = (
            "python -m soarbench run 'seeds=[0,1]' output_dir=/home/me device=cpu"
        )
        path.write_text(json.dumps(stored))
    export(ExportOptions(output=tmp_path / "copy"), finished, console=quiet())
    paths = list((tmp_path / "copy").rglob("launches.json"))
    assert len(paths) == 4
    for path in paths:
        (launch,) = json.loads(path.read_text())["launches"]
        assert launch["command"] == "python -m soarbench run 'seeds=[0,1]'"
        assert launch["git_commit"]


def test_a_run_records_its_command_and_commit(finished: list[str]) -> None:
    paths = list(folder_of(finished, "output_dir").rglob("launches.json"))
    assert len(paths) == 4
    (launch,) = json.loads(paths[0].read_text())["launches"]
    assert launch["command"]
    assert launch["git_commit"]
    assert launch["python"].startswith("3.")


def test_an_unfinished_cell_stays_a_hole_with_its_reason(
    finished: list[str], tmp_path: Path
) -> None:
    status = next(folder_of(finished, "output_dir").rglob("soar-*/status.json"))
    status.write_text(json.dumps({"state": "failed", "reason": "out of memory"}))
    assert export(ExportOptions(output=tmp_path / "copy"), finished, console=quiet()) == 1
    words = [f"output_dir={tmp_path / 'copy'}", f"results_dir={tmp_path}"]
    assert report(ReportOptions(), words, console=quiet()) == 1
    assert "failed: out of memory" in (tmp_path / "reward_specific" / "table.md").read_text()


def test_a_copy_can_be_narrowed_and_nothing_else(finished: list[str], tmp_path: Path) -> None:
    copy = f"output_dir={tmp_path / 'copy'}"
    export(ExportOptions(output=tmp_path / "copy"), finished, console=quiet())
    cells = stored_grid([copy, "method=sft,soar"]).cells
    assert {cell.method_name for cell in cells} == {"base", "sft", "soar"}
    assert {cell.method_name for cell in stored_grid([copy, "seeds=[7]"]).cells} == {"base"}
    with pytest.raises(ConfigError, match="is a published copy"):
        stored_grid([copy, "method.aux_weight=2"])
    with pytest.raises(ConfigError, match=r"budget=.*is a published copy"):
        stored_grid([copy, "budget=quick"])


def test_two_grids_in_one_folder_must_be_told_apart(tmp_path: Path) -> None:
    for grid in ("main_table", "reward_specific"):
        (tmp_path / grid).mkdir()
        manifest = {"version": 2, "grid": grid, "baseline": "sft", "cells": []}
        (tmp_path / grid / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="choose one: grid=main_table, grid=reward_specific"):
        stored_grid([f"output_dir={tmp_path}"])
    (tmp_path / "main_table" / MANIFEST).write_text('{"version": 99, "baseline": "sft"}')
    with pytest.raises(UserError, match="store version 99"):
        stored_grid([f"output_dir={tmp_path}", "grid=main_table"])


def test_misuse_is_named(finished: list[str], tmp_path: Path) -> None:
    words = [*finished, f"output_dir={tmp_path}/no"]
    with pytest.raises(UserError, match="holds no finished cell"):
        export(ExportOptions(output=tmp_path), words, console=quiet())
    with pytest.raises(UserError, match=r"output=.* cannot be written to"):
        export(ExportOptions(output=Path("/proc/copy")), finished, console=quiet())


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("x=second", "must be one of step, images_seen"),
        ("threshold=aesthetic:6.8", r"called thresholds\.METRIC="),
        ("thresholds.aesthetic=high", "must be a number"),
        ("thresholds.ocr=0.5", "no task is decided by that metric"),
    ],
)
def test_options_of_a_report_are_checked(finished: list[str], word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        report(*read(ReportOptions, [*finished, word]), console=quiet())


def test_curves_are_drawn_over_what_is_asked_for(finished: list[str]) -> None:
    report(*read(ReportOptions, [*finished, "x=seconds,reward_calls"]), console=quiet())
    folder = folder_of(finished, "results_dir") / "reward_specific"
    assert {path.name for path in folder.glob("curves*.png")} == {
        "curves.png", "curves_seconds.png", "curves_reward_calls.png",
    }  # fmt: skip


def test_a_method_with_another_value_is_found_like_any_other(overrides: list[str]) -> None:
    arguments = [*overrides, "tracking=none", "task=aesthetic", "method.aux_weight=0.5"]
    assert {cell.cell_id for cell in stored_grid(arguments).cells} == {
        cell.cell_id for cell in expand(arguments).cells
    }
