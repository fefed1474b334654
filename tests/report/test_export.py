"""``export`` and reports of what it wrote: no images, no weights, the same numbers."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import CommitOperationAdd
from PIL import Image
from rich.console import Console

from soarbench.cli.app import main
from soarbench.cli.compare import CompareOptions, compare
from soarbench.cli.export import ExportOptions, export
from soarbench.cli.leaderboard import LeaderboardOptions, leaderboard
from soarbench.cli.publish import PublishOptions, publish
from soarbench.cli.report import report
from soarbench.cli.run import run_whole
from soarbench.cli.words import read
from soarbench.common.errors import ConfigError, StoreError, UserError
from soarbench.common.files import read_json
from soarbench.common.provenance import STORE_VERSION
from soarbench.grid import addresses
from soarbench.grid.expand import expand
from soarbench.report.options import ReportOptions
from soarbench.report.source import grid_cells
from soarbench.store.cells import Cell
from soarbench.store.exports import MANIFEST, Export, Manifest, _rounded, write_export
from tests.fakes import SMALL, FakeWorkbench

TABLES = ("table.csv", "matched.csv", "thresholds.csv", "trace.csv", "curves.csv")
#: As exports had it that kept no rule.
OLD_MANIFEST = json.dumps({"version": STORE_VERSION, "grid": "reward_specific", "baseline": "sft"})
Damage = Callable[[Path], object]
DAMAGES: dict[str, Damage] = {
    "is missing": Path.unlink,
    "is damaged": lambda path: path.write_bytes(path.read_bytes()[:40]),
}


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid that has run: its model, its store and its report."""
    root = tmp_path_factory.mktemp("study")
    (root / "model").mkdir()
    (root / "model" / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    grid = expand(words_of(root))
    bench = FakeWorkbench()
    run_whole(grid, console=quiet(), make_workbench=lambda grid: bench.at(grid.store))
    return root


def words_of(root: Path) -> list[str]:
    places = [f"model.path={root / 'model'}", f"output_dir={root / 'runs'}"]
    places.append(f"results_dir={root / 'results'}")
    return ["grid=reward_specific", *places, *SMALL, "tracking=none", "task=aesthetic"]


@pytest.fixture
def finished(study: Path, tmp_path: Path) -> list[str]:
    """The arguments of a copy of it, which a test may damage."""
    shutil.copytree(study, tmp_path / "study")
    return words_of(tmp_path / "study")


def folder_of(arguments: list[str], key: str) -> Path:
    return Path(next(word.partition("=")[2] for word in arguments if word.startswith(f"{key}=")))


def exported(arguments: list[str], output: Path) -> Export:
    assert export(ExportOptions(output=output), arguments, console=quiet()) == 0
    return Export(output / "reward_specific")


def reported(output: Path, results: Path) -> Path:
    words = [f"output_dir={output}", f"results_dir={results}", "figure_formats=[]"]
    assert report(ReportOptions(), words, console=quiet()) == 0
    return results / "reward_specific"


def test_an_export_says_the_command_that_reports_it(finished: list[str], tmp_path: Path) -> None:
    console, output = quiet(), tmp_path / "several grids"
    assert export(ExportOptions(output=output), finished, console=console) == 0
    assert isinstance(console.file, io.StringIO)
    last = " ".join(console.file.getvalue().split())
    assert last.endswith(f"soarbench report grid=reward_specific 'output_dir={output}'")


def test_an_export_is_reported_by_a_name_that_no_yaml_has(
    finished: list[str], tmp_path: Path
) -> None:
    """As of ``grid.name``, or of a ``conf_dir`` that whoever made it has."""
    exported(finished, tmp_path / "copy").root.rename(tmp_path / "copy" / "theirs")
    words = ["grid=theirs", f"output_dir={tmp_path / 'copy'}"]
    assert len(grid_cells(words).cells) == 4
    assert compare("soar", "sft", CompareOptions(), words, as_json=False, console=quiet()) == 0
    with pytest.raises(ConfigError, match="grid='nobodys' does not exist"):
        grid_cells(["grid=nobodys", *words[1:]])
    with pytest.raises(ConfigError, match=r"grid='\.\./copy/theirs' does not exist"):
        grid_cells(["grid=../copy/theirs", *words[1:]])


def by_method(folder: Export) -> dict[str, Cell]:
    return {cell.method: cell for cell in folder.cells()}


def test_a_copy_reports_the_same_numbers(finished: list[str], tmp_path: Path) -> None:
    exported(finished, tmp_path / "copy")
    after = reported(tmp_path / "copy", tmp_path / "again")
    before = folder_of(finished, "results_dir") / "reward_specific"
    words = [
        re.split(r"(\d+\.\d+)", (folder / "table.md").read_text()) for folder in (after, before)
    ]
    assert words[0][::2] == words[1][::2]
    for copied, own in zip(words[0][1::2], words[1][1::2], strict=True):
        last_digit = 10.0 ** -len(own.partition(".")[2])
        assert float(copied) == pytest.approx(float(own), abs=1.01 * last_digit, rel=0)
    for name in TABLES:
        # Scores of a copy have 20 bits, these are of the order of a hundred, and an interval of
        # so few of them is ten times as wide as they spread.
        texts = [folder / name for folder in (after, before)]
        limits = {"rtol": 1e-5, "atol": 1000 * 2**-20}
        pd.testing.assert_frame_equal(*map(pd.read_csv, texts), check_exact=False, **limits)


def test_a_copy_holds_no_images_weights_or_checkpoints(finished: list[str], tmp_path: Path) -> None:
    folder = exported(finished, tmp_path / "copy")
    files = [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        "export.json", "cells.parquet", "scores.parquet", "training.parquet", "images.parquet",
        "norms.parquet", "exposure.parquet", "samples.parquet",
    }  # fmt: skip
    strips = folder.strips()
    assert {(strip.task, strip.step) for strip in strips} == {
        ("aesthetic", step) for step in (0, 3, 6)
    }
    with Image.open(io.BytesIO(strips[0].jpeg)) as strip:
        assert strip.width == len(strips[0].prompts) * strip.height


def test_scores_have_most_of_their_digits_and_what_nobody_pairs_few(
    finished: list[str], tmp_path: Path
) -> None:
    """Exports are kept in git; verdicts come from scores."""
    copied = by_method(exported(finished, tmp_path / "copy"))
    for cell in grid_cells(finished).cells:
        other = copied[cell.method].tables
        expected = np.sort(cell.tables.scores()["value"].to_numpy())
        values = np.sort(other.scores()["value"].to_numpy())
        np.testing.assert_allclose(values, expected, rtol=2**-20)
        assert (np.frexp(values)[0] * 2**20 % 1 == 0).all()
        rows, short = cell.tables.probe("images"), other.probe("images")
        assert rows is not None
        assert short is not None
        keys = ["step", "suite", "prompt_id"]
        means = rows.to_pandas().groupby(keys)[["brightness", "saturation"]].mean()
        few = short.to_pandas().set_index(keys)[["brightness", "saturation"]].astype(float)
        assert (np.frexp(few)[0] * 2**6 % 1 == 0).all(axis=None)
        assert means.all(axis=None)
        pd.testing.assert_frame_equal(few.loc[means.index], means, check_exact=False, rtol=2**-6)


def test_statistics_that_tables_compare_keep_more_digits() -> None:
    values = [0.1234567, None, 3.0]
    short = _rounded(pa.table({"brightness": values, "diversity": values}), 10)
    assert short["brightness"].to_pylist() == [1011 / 8192, None, 3.0]
    assert short["diversity"].to_pylist() == [8091 / 65536, None, 3.0]


def test_training_logs_keep_their_counts_and_few_digits_of_the_rest(
    finished: list[str], tmp_path: Path
) -> None:
    copied = by_method(exported(finished, tmp_path / "copy"))
    for cell in grid_cells(finished).cells:
        rows, short = cell.tables.training(), copied[cell.method].tables.training()
        if rows is None:
            assert short is None
            continue
        assert short is not None
        assert short.drop_columns("value").equals(rows.drop_columns("value"))
        given, kept = (np.array(table["value"].to_pylist(), float) for table in (rows, short))
        is_whole = given == np.round(given)
        assert is_whole.any()
        np.testing.assert_array_equal(kept[is_whole], given[is_whole])
        np.testing.assert_allclose(kept, given, rtol=2**-15)
        assert (np.frexp(kept[~is_whole])[0] * 2**15 % 1 == 0).all()


def test_the_page_of_a_copy_shows_the_samples(finished: list[str], tmp_path: Path) -> None:
    folder = exported(finished, tmp_path / "copy")
    text = (reported(tmp_path / "copy", tmp_path) / "index.html").read_text()
    assert "data-step" in text
    assert "holds no images" not in text
    (folder.root / "samples.parquet").unlink()
    text = (reported(tmp_path / "copy", tmp_path) / "index.html").read_text()
    assert "holds no images" in text


def test_exporting_again_adds_what_is_new_and_leaves_the_rest(
    finished: list[str], tmp_path: Path
) -> None:
    """As of a study that was run in several places: each exports its own."""
    sft = [*finished, "method=sft"]
    before = by_method(exported(sft, tmp_path / "copy"))
    assert before.keys() == {"base", "sft"}
    folder = exported([*finished, "method=soar"], tmp_path / "copy")
    after = by_method(folder)
    assert after.keys() == {"base", "sft", "soar"}
    assert after["sft"].description == before["sft"].description
    assert after["sft"].tables.scores().equals(before["sft"].tables.scores())
    assert after["sft"].strip("aesthetic", 6) is not None
    assert exported(finished, tmp_path / "copy").cells() != []
    assert by_method(folder).keys() == {"base", "sft", "soar", "flow_grpo"}
    assert len(list(folder.root.iterdir())) == 8


def test_a_cell_of_other_settings_is_not_joined_to_its_older_self(
    finished: list[str], tmp_path: Path
) -> None:
    """No report takes both, and the older one is not thrown away unasked."""
    folder = exported(finished, tmp_path / "copy")
    before = {path.name: path.read_bytes() for path in folder.root.iterdir()}
    words = [*finished, "method=sft", "optim.learning_rate=0.5"]
    with pytest.raises(UserError, match=r"has sft aesthetic seed 0 of other settings .*delete"):
        export(ExportOptions(output=tmp_path / "copy"), words, console=quiet())
    assert {path.name: path.read_bytes() for path in folder.root.iterdir()} == before


def test_what_is_not_finished_here_leaves_what_was_exported_elsewhere(
    finished: list[str], tmp_path: Path
) -> None:
    before = by_method(exported(finished, tmp_path / "copy"))
    elsewhere = [word for word in finished if not word.startswith("output_dir=")]
    elsewhere.append(f"output_dir={tmp_path / 'elsewhere'}")
    bench, part = FakeWorkbench(), [*elsewhere, "method=soar"]
    run_whole(expand(part), console=quiet(), make_workbench=lambda grid: bench.at(grid.store))
    stream = io.StringIO()
    console, options = Console(file=stream, width=200), ExportOptions(output=tmp_path / "copy")
    assert export(options, elsewhere, console=console) == 1
    assert "2 of 4 cells finished, 2 were there before" in stream.getvalue()
    after = by_method(Export(tmp_path / "copy" / "reward_specific"))
    assert {name: cell.state for name, cell in after.items()} == dict.fromkeys(before, "finished")
    for name in ("sft", "flow_grpo"):
        assert after[name].tables.scores().equals(before[name].tables.scores())


def test_what_the_base_was_measured_on_for_another_task_stays(
    finished: list[str], tmp_path: Path
) -> None:
    """Each task follows the base on its own data, and all share its cell."""
    folder = exported(finished, tmp_path / "copy")
    paths = by_method(folder)["base"].description["paths"]
    assert isinstance(paths, dict)
    (key,) = paths
    norms = by_method(folder)["base"].norms(key)
    assert norms is not None
    other = [word for word in finished if not word.startswith("task=")] + ["task=alignment"]
    bench = FakeWorkbench()
    run_whole(expand(other), console=quiet(), make_workbench=lambda grid: bench.at(grid.store))
    base = next(cell for cell in exported(other, tmp_path / "copy").cells() if cell.is_base)
    assert len(base.description["paths"]) == 2  # type: ignore[arg-type]
    kept = base.norms(key)
    assert kept is not None
    assert kept.equals(norms)


def test_commands_of_a_copy_name_no_folder_of_this_machine(
    finished: list[str], tmp_path: Path
) -> None:
    for path in folder_of(finished, "output_dir").rglob("artefact.json"):
        stored = json.loads(path.read_text())
        stored["launches"][0]["command"] = (
            "python -m soarbench run 'seeds=[0,1]' output_dir=/home/me device=cpu "
            "tracking.uri=http://me:secret@host"
        )
        path.write_text(json.dumps(stored))
    cells = exported(finished, tmp_path / "copy").cells()
    assert len(cells) == 4
    for cell in cells:
        (launch,) = cell.launches
        assert launch.command == "python -m soarbench run 'seeds=[0,1]'"
        assert launch.git_commit


def test_a_run_records_its_command_and_commit(finished: list[str]) -> None:
    cells = grid_cells(finished).cells
    assert len(cells) == 4
    for cell in cells:
        (launch,) = cell.launches
        assert launch.command
        assert launch.git_commit
        assert launch.python.startswith("3.")


def test_an_unfinished_cell_stays_a_hole_with_its_reason(
    finished: list[str], tmp_path: Path
) -> None:
    grids = folder_of(finished, "output_dir") / "grids"
    status = next(grids.rglob("soar-*/status.json"))
    status.write_text(json.dumps({"state": "failed", "reason": "out of memory"}))
    assert export(ExportOptions(output=tmp_path / "copy"), finished, console=quiet()) == 1
    words = [f"output_dir={tmp_path / 'copy'}", f"results_dir={tmp_path}"]
    assert report(ReportOptions(), words, console=quiet()) == 1
    assert "failed: out of memory" in (tmp_path / "reward_specific" / "table.md").read_text()


def test_a_copy_can_be_narrowed_and_nothing_else(finished: list[str], tmp_path: Path) -> None:
    copy = f"output_dir={tmp_path / 'copy'}"
    exported(finished, tmp_path / "copy")
    cells = grid_cells([copy, "method=sft,soar"]).cells
    assert {cell.method for cell in cells} == {"base", "sft", "soar"}
    for word, text in {"seeds=[7]": "seeds=7", "method=awm": "method=awm"}.items():
        with pytest.raises(UserError, match=f"{text}: .* has "):
            grid_cells([copy, word])
    assert grid_cells([copy, "figure_formats=[png]"]).formats == ("png",)
    assert grid_cells([copy]).baseline == "sft"
    exported([*finished, "method=soar"], tmp_path / "part")
    assert grid_cells([f"output_dir={tmp_path / 'part'}"]).baseline == "sft"
    assert grid_cells([copy, "grid.baseline=soar"]).baseline == "soar"
    with pytest.raises(ConfigError, match=r"grid\.baseline: 'sora' .* did you mean 'soar'"):
        grid_cells([copy, "grid.baseline=sora"])
    with pytest.raises(ConfigError, match="is an export"):
        grid_cells([copy, "method.aux_weight=2"])
    with pytest.raises(ConfigError, match=r"budget=.*is an export"):
        grid_cells([copy, "budget=quick"])


def changed(folder: Export, change: Callable[[list[dict[str, Any]]], object]) -> None:
    """Writes what an export says of its cells again, with a change."""
    path = folder.root / "cells.parquet"
    table = pq.read_table(path)
    cells = [json.loads(text) for text in table["cell"].to_pylist()]
    change(cells)
    texts = pa.array([json.dumps(cell) for cell in cells])
    pq.write_table(table.set_column(table.schema.get_field_index("cell"), "cell", texts), path)


def kept(folder: Export) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.root.iterdir()}


def test_seeds_that_were_trained_unlike_each_other_are_not_joined(
    finished: list[str], tmp_path: Path
) -> None:
    """Their mean would be of no method."""
    folder = exported([*finished, "method=sft"], tmp_path / "copy")
    before, bench = kept(folder), FakeWorkbench()
    for word in ("optim.learning_rate=0.5", "training.save_steps=3"):
        other = [*finished, "method=sft", "seeds=[1]", word]
        run_whole(expand(other), console=quiet(), make_workbench=lambda grid: bench.at(grid.store))
        if word.startswith("training"):
            assert len(exported(other, tmp_path / "copy").cells()) == 3
            continue
        message = r"copy.* has other results: sft-\S+ and sft-\S+ are no two seeds .*learning_rate"
        with pytest.raises(UserError, match=message):
            export(ExportOptions(output=tmp_path / "copy"), other, console=quiet())
        assert kept(folder) == before

    def twice(cells: list[dict[str, Any]]) -> None:
        cell = next(one for one in cells if one["description"]["seed"] == 1)
        cell["description"]["config"]["optim"]["weight_decay"] = 0.7

    changed(folder, twice)
    words = [f"output_dir={tmp_path / 'copy'}", f"results_dir={tmp_path}"]
    for ask in (
        lambda: report(ReportOptions(), words, console=quiet()),
        lambda: compare("sft", "base", CompareOptions(), words, as_json=True, console=quiet()),
    ):
        with pytest.raises(StoreError, match=r"no two seeds of one method: optim\.weight_decay is"):
            ask()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_prompts", 99, r"with max_prompts=99 of \w+, and this has 3"),
        ("max_prompts", None, r"with max_prompts=None of \w+, and this has 3"),
        ("images_per_prompt", 2, r"with images_per_prompt=2 of \w+, and this has 1"),
        ("scores", {"unheard": {}}, r"with unheard of \w+, and this has none"),
        ("steps", [0, 3, 4, 6], r"with step 0, 4, and this has none"),
    ],
)
def test_less_of_a_cell_does_not_take_the_place_of_more(
    finished: list[str], tmp_path: Path, key: str, value: object, message: str
) -> None:
    words = [*finished, "method=sft"]
    folder = exported(words, tmp_path / "copy")

    def more(cells: list[dict[str, Any]]) -> None:
        (cell,) = (one for one in cells if one["description"]["method"] == "sft")
        parts = [cell["description"]]
        if key != "steps":
            parts = list(cell["description"]["suites"].values())
        for part in parts:
            part[key] = value

    changed(folder, more)
    before = kept(folder)
    with pytest.raises(UserError, match=f"has sft-.* {message}, .*choose another output="):
        export(ExportOptions(output=tmp_path / "copy"), words, console=quiet())
    assert kept(folder) == before


def test_what_is_joined_is_reported_and_was_judged_alike(
    finished: list[str], tmp_path: Path
) -> None:
    folder = exported([*finished, "method=sft"], tmp_path / "copy")
    other = [*finished, "method=soar"]
    with pytest.raises(UserError, match=r"has grid\.baseline=sft, and this has soar; say"):
        exported([*other, "grid.baseline=soar"], tmp_path / "copy")

    def other_guidance(cells: list[dict[str, Any]]) -> None:
        for entry in (entry for cell in cells for entry in cell["protocols"]):
            entry["protocol"]["guidance_scale"] = 9.0

    changed(folder, other_guidance)
    before = kept(folder)
    with pytest.raises(UserError, match=r"different protocols.*; or choose another output="):
        exported(other, tmp_path / "copy")
    assert kept(folder) == before


def test_a_copy_is_not_narrowed_to_nothing(finished: list[str], tmp_path: Path) -> None:
    """What was asked for and is not there would be missed by nobody."""
    folder = exported(finished, tmp_path / "copy")
    copy = f"output_dir={tmp_path / 'copy'}"
    with pytest.raises(UserError, match=r"method=base: leaves nothing of .* but the base"):
        grid_cells([copy, "method=base"])
    with pytest.raises(UserError, match=r"baseline=soar: .* none in task aesthetic of what was"):
        grid_cells([copy, "grid.baseline=soar", "method=sft,flow_grpo"])
    part = grid_cells([copy, "grid.baseline=base", "method=sft"])
    assert part.baseline == "base"
    # Their p-values are corrected for fewer looks than were possible.
    assert [line.partition(":")[0] for line in part.choices] == [
        "A part of an export, by method=sft",
        "Compared with base, where the grid was made to be compared with sft",
    ]
    whole = [copy, "method=sft,soar,flow_grpo", "grid.baseline=sft", "task=aesthetic"]
    assert grid_cells(whole).choices == ()
    words = [copy, "method=sft,soar", f"results_dir={tmp_path}", "figure_formats=[]"]
    stream = io.StringIO()
    assert report(ReportOptions(), words, console=Console(file=stream, width=300)) == 0
    for text in (
        stream.getvalue(),
        *((tmp_path / "reward_specific" / name).read_text() for name in ("table.md", "index.html")),
    ):
        assert "A part of an export, by method=sft,soar: p-values are corrected for this" in text

    def later_seed(cells: list[dict[str, Any]]) -> None:
        (cell,) = (one for one in cells if one["description"]["method"] == "soar")
        cell["description"]["seed"] = 4

    changed(folder, later_seed)
    assert len(grid_cells([copy, "method=sft,soar", "seeds=[0,4]"]).cells) == 3
    with pytest.raises(
        UserError, match=r"method=soar: .* has it with task=aesthetic, seeds=4 alone"
    ):
        grid_cells([copy, "method=sft,soar", "seeds=[0]"])


def test_the_folder_of_an_export_is_named_not_itself(finished: list[str], tmp_path: Path) -> None:
    folder = exported(finished, tmp_path / "copy").root
    with pytest.raises(UserError, match=rf"is an export itself: .* output_dir={tmp_path}/copy$"):
        grid_cells([f"output_dir={folder}"])


def test_two_grids_in_one_folder_must_be_told_apart(tmp_path: Path) -> None:
    for grid in ("main_table", "reward_specific"):
        (tmp_path / grid).mkdir()
        manifest = {"version": STORE_VERSION, "grid": grid, "baseline": "sft"}
        (tmp_path / grid / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="choose one: grid=main_table, grid=reward_specific"):
        grid_cells([f"output_dir={tmp_path}"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"version": 99, "grid": "reward_specific", "baseline": "sft"}', "store version 99, and"),
        ('{"grid": "reward_specific", "baseline": "sft", "cells": []}', "store version None, and"),
        ('{"version": ', "is damaged"),
    ],
)
def test_an_export_of_another_version_is_refused(
    finished: list[str], tmp_path: Path, content: str, message: str
) -> None:
    folder = exported(finished, tmp_path / "copy")
    (folder.root / MANIFEST).write_text(content)
    with pytest.raises(UserError, match=rf"{MANIFEST} .*{message}") as caught:
        reported(tmp_path / "copy", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["cells", "scores", "training"])
def test_a_table_that_is_missing_or_damaged_is_named(
    finished: list[str], tmp_path: Path, name: str, damage: str
) -> None:
    folder = exported(finished, tmp_path / "copy")
    DAMAGES[damage](folder.root / f"{name}.parquet")
    with pytest.raises(UserError, match=rf"{name}\.parquet {damage}.*export the grid") as caught:
        reported(tmp_path / "copy", tmp_path)
    assert "\n" not in str(caught.value)
    whole = (exported(finished, tmp_path / "whole").root / f"{name}.parquet").read_bytes()
    again = exported(finished, tmp_path / "copy").root / f"{name}.parquet"
    assert again.read_bytes() == whole


def test_a_table_without_the_rows_of_a_cell_is_named(finished: list[str], tmp_path: Path) -> None:
    folder = exported(finished, tmp_path / "copy")
    path = folder.root / "scores.parquet"
    table = pq.read_table(path)
    pq.write_table(
        table.filter([not x.startswith("soar") for x in table["cell_id"].to_pylist()]), path
    )
    with pytest.raises(UserError, match=r"scores\.parquet .*no rows of soar-aesthetic-seed0"):
        reported(tmp_path / "copy", tmp_path)


def test_misuse_is_named(finished: list[str], tmp_path: Path) -> None:
    words = [*finished, f"output_dir={tmp_path}/no"]
    with pytest.raises(UserError, match="holds no finished cell"):
        export(ExportOptions(output=tmp_path), words, console=quiet())
    with pytest.raises(UserError, match=r"output=.* cannot be written to"):
        export(ExportOptions(output=Path("/proc/copy")), finished, console=quiet())


@pytest.mark.parametrize("command", ["run", "diagnose", "status", "sync", "ui"])
def test_commands_about_runs_say_that_a_folder_is_an_export(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "reward_specific").mkdir()
    (tmp_path / "reward_specific" / MANIFEST).write_text(OLD_MANIFEST)
    words = ["grid=reward_specific"] if command in ("run", "diagnose") else []
    for folder, what in (
        (tmp_path, "holds reward_specific, which is"),
        (tmp_path / "reward_specific", "is"),
    ):
        assert main([command, *words, f"output_dir={folder}"]) == 2
        assert f"output_dir={folder} {what} an export: report" in capsys.readouterr().err
    # Nothing was made there.
    assert [path.name for path in tmp_path.iterdir()] == ["reward_specific"]


def test_a_copy_is_not_written_among_the_runs_or_over_itself(
    finished: list[str], tmp_path: Path
) -> None:
    # Later commands would read the copy in their place.
    runs = expand(finished).store.root
    with pytest.raises(UserError, match=f"output={runs} holds the runs themselves"):
        export(ExportOptions(output=runs), finished, console=quiet())
    assert not list(runs.rglob("export.json"))
    copy = tmp_path / "copy"
    assert export(ExportOptions(output=copy), finished, console=quiet()) == 0
    with pytest.raises(UserError, match="holds the runs themselves"):
        export(ExportOptions(output=copy), [f"output_dir={copy}"], console=quiet())


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
    report(
        *read(ReportOptions, [*finished, "figure_formats=[png]", "x=seconds,reward_calls"]),
        console=quiet(),
    )
    folder = folder_of(finished, "results_dir") / "reward_specific"
    assert {path.name for path in folder.glob("curves*.png")} == {
        "curves.png", "curves_seconds.png", "curves_reward_calls.png",
    }  # fmt: skip


def test_a_method_with_another_value_is_found_like_any_other(overrides: list[str]) -> None:
    arguments = [*overrides, "tracking=none", "task=aesthetic", "method.aux_weight=0.5"]
    assert {cell.cell_id for cell in grid_cells(arguments).cells} == {
        addresses.cell_id(cell) for cell in expand(arguments).cells
    }


def test_files_of_an_export_name_its_version_and_grid(finished: list[str], tmp_path: Path) -> None:
    folder = exported(finished, tmp_path / "copy")
    assert read_json(folder.root / MANIFEST) == {
        "version": STORE_VERSION, "grid": "reward_specific", "baseline": "sft",
        "checkpoint_rule": "last", "show_published": False,
    }  # fmt: skip
    assert read_json(folder.root / MANIFEST).keys() > json.loads(OLD_MANIFEST).keys()


def test_a_copy_marks_the_step_that_the_grid_marks(finished: list[str], tmp_path: Path) -> None:
    folder = exported(finished, tmp_path / "copy")
    copy = [f"output_dir={tmp_path / 'copy'}"]
    assert not grid_cells(copy).show_published
    manifest = Manifest(
        grid="reward_specific", baseline="soar", checkpoint_rule="best:ocr", show_published=True
    )
    write_export(folder.root, manifest, folder.cells(), folder.strips(), {})
    found = grid_cells(copy)
    assert (found.checkpoint_rule, found.baseline, found.show_published) == (
        "best:ocr", "soar", True,
    )  # fmt: skip
    (folder.root / MANIFEST).write_text(OLD_MANIFEST)
    assert grid_cells(copy).checkpoint_rule == "last"


def alike(folder: Path, output: Path, **changes: object) -> Path:
    """A copy of an export whose protocols say something else."""
    shutil.copytree(folder, output / folder.name)

    def other_protocols(cells: list[dict[str, Any]]) -> None:
        for entry in (entry for cell in cells for entry in cell["protocols"]):
            entry["protocol"] |= changes

    changed(Export(output / folder.name), other_protocols)
    return output


def test_a_leaderboard_ranks_exports_and_refuses_unlike_protocols(
    finished: list[str], tmp_path: Path
) -> None:
    folder = exported(finished, tmp_path / "first").root
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    page = tmp_path / "a.html"
    options, _ = read(LeaderboardOptions, [f"exports=[{first},{second}]", f"output={page}"])
    alike(folder, second)
    stream = io.StringIO()
    assert leaderboard(options, [], console=Console(file=stream, width=300)) == 0
    assert stream.getvalue().endswith("a.html: 2 exported grids, 1 tasks\n")
    parts = page.read_text().split("<tr>")[2:]
    rows = [re.sub("<[^>]+>", " ", row).split() for row in parts]
    # The same cells stand there once; the table's own value comes first of the numbers.
    assert sorted(row[0] for row in rows) == ["Base", "Flow-GRPO", "SFT", "SOAR"]
    before = folder_of(finished, "results_dir") / "reward_specific" / "table.csv"
    table = pd.read_csv(before).query("is_final_metric").set_index("method")["value"]
    values = [float(next(word for word in row if re.fullmatch(r"\d+\.\d+", word))) for row in rows]
    assert values == sorted(values, reverse=True)
    assert values == pytest.approx(sorted(table, reverse=True), abs=1e-3)
    options, _ = read(LeaderboardOptions, [f"exports=[{first},{third}]"])
    with pytest.raises(UserError, match="third holds no export"):
        leaderboard(options, [], console=quiet())
    mine = tmp_path / "mine.txt"
    mine.write_text("precious")
    other, _ = read(LeaderboardOptions, [f"exports=[{first}]", f"output={mine}"])
    with pytest.raises(UserError, match=r"mine\.txt is no page; name it"):
        leaderboard(other, [], console=quiet())
    assert mine.read_text() == "precious"
    alike(folder, third, guidance_scale=9.0)
    with pytest.raises(UserError, match=r"first/.*third/.* guidance_scale: .* against 9\.0"):
        leaderboard(options, [], console=quiet())


def test_a_model_card_says_scores_protocol_and_command_and_is_uploaded_with_the_weights(
    finished: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = grid_cells(finished)
    (cell,) = [one for one in source.cells if one.method == "soar"]
    weights = folder_of(finished, "output_dir") / cell.description["training"] / "snapshots"
    weights /= "step-000006"
    (weights / "config.json").write_text('{"_class_name": "SD3Transformer2DModel"}')
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)

    def published(*words: str) -> str:
        options, settings = read(PublishOptions, [*words, *finished])
        stream = io.StringIO()
        assert (
            publish(cell.cell_id, options, settings, console=Console(file=stream, width=400)) == 0
        )
        return stream.getvalue()

    with pytest.raises(UserError, match="no token of the hub; log in with `hf auth login`"):
        published("repo=me/mine")
    with pytest.raises(UserError, match=r"licence of the base .*model is not known here"):
        published()
    assert f"{weights}.README.md" in published("license=apache-2.0")
    text = weights.with_name("step-000006.README.md").read_text()
    metadata = yaml.safe_load(text.split("---")[1])
    assert (metadata["license"], metadata["library_name"]) == ("apache-2.0", "diffusers")
    table = pd.read_csv(folder_of(finished, "results_dir") / "reward_specific" / "table.csv")
    (row,) = table.query("is_final_metric and method == 'soar'").to_dict("records")
    results = metadata["model-index"][0]["results"]
    values = {one["metrics"][0]["type"]: one["metrics"][0]["value"] for one in results}
    assert values[row["metric"]] == row["value"]
    assert f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in text
    assert '"num_inference_steps"' in text
    assert f"  # commit {cell.launches[0].git_commit}" in text
    # Of the machine that trained it says nothing.
    assert str(tmp_path) not in text

    uploads: dict[str, object] = {}

    class Api:
        def create_repo(self, repo: str, **options: object) -> str:
            uploads.update(repo=repo, **options)
            return f"https://huggingface.co/{repo}"

        def create_commit(
            self, _: str, operations: Iterable[CommitOperationAdd], **__: str
        ) -> None:
            uploads["files"] = {one.path_in_repo: one.path_or_fileobj for one in operations}

    monkeypatch.setattr("huggingface_hub.get_token", lambda: "token")
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    said = published("license=apache-2.0", "repo=me/mine")
    assert said.endswith("uploaded: https://huggingface.co/me/mine\n")
    assert uploads["private"] is True
    files = uploads["files"]
    assert isinstance(files, dict)
    assert files.keys() == {"README.md", "weights", "config.json"}
    assert Path(files["README.md"]).read_text().count("me/mine") == 1
