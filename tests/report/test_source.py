"""Which cells a command line means, and stores that cannot be read."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from soarbench.cli.compare import CompareOptions, compare
from soarbench.cli.report import report
from soarbench.cli.run import diagnose, run, run_whole
from soarbench.cli.words import read
from soarbench.common.errors import UserError
from soarbench.common.provenance import STORE_VERSION
from soarbench.grid import addresses
from soarbench.grid.expand import expand
from soarbench.report.options import ReportOptions
from soarbench.report.source import grid_cells
from soarbench.store.cells import FINISHED
from tests.fakes import SMALL, FakeWorkbench

Damage = Callable[[Path], object]


def quiet() -> Console:
    return Console(file=io.StringIO(), width=160)


def words_of(root: Path) -> list[str]:
    places = [f"model.path={root / 'model'}", f"output_dir={root / 'runs'}"]
    places.append(f"results_dir={root / 'results'}")
    common = [*SMALL, "tracking=none", "task=aesthetic", "method=sft"]
    return ["grid=reward_specific", *places, *common]


def go(words: list[str]) -> int:
    bench = FakeWorkbench()
    return run_whole(
        expand(words), console=quiet(), make_workbench=lambda grid: bench.at(grid.store)
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of the base and SFT that has run."""
    root = tmp_path_factory.mktemp("study")
    (root / "model").mkdir()
    (root / "model" / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    assert go(words_of(root)) == 0
    return root


@pytest.fixture
def words(study: Path, tmp_path: Path) -> list[str]:
    """Of a copy of it, which a test may damage."""
    shutil.copytree(study, tmp_path / "study")
    return words_of(tmp_path / "study")


def refused(words: list[str]) -> str:
    """The one line with which a report is refused."""
    with pytest.raises(UserError) as caught:
        report(ReportOptions(), words, console=quiet())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_configurations_are_passed_over_and_what_is_missing_is_named(
    words: list[str],
) -> None:
    assert go([*words, "optim.learning_rate=0.5"]) == 0
    cells = grid_cells([*words, "method=sft,soar"]).cells
    states = {cell.label: cell.state for cell in cells}
    assert states == {
        "base": FINISHED, "sft aesthetic seed 0": FINISHED, "soar aesthetic seed 0": "not started",
    }  # fmt: skip
    assert {cell.cell_id for cell in cells} == {
        addresses.cell_id(cell) for cell in expand([*words, "method=sft,soar"]).cells
    }
    assert report(ReportOptions(), [*words, "method=sft,soar"], console=quiet()) == 1


def stored(words: list[str], pattern: str) -> Path:
    """A file of the store of a command line."""
    return sorted(expand(words).store.root.glob(pattern))[0]


def with_copy(path: Path) -> list[Path]:
    """A file, and the copy that it is read from where it is lost."""
    copy = path.with_name(f".{path.name}.copy")
    return [path, copy] if copy.is_file() else [path]


FILES = {
    "rows": "scores/*/rows.parquet",
    "training": "trainings/*/training.parquet",
    "record of a training": "trainings/*/artefact.json",
    "record of images": "images/*/artefact.json",
    "record of scores": "scores/*/artefact.json",
}


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_and_its_remedy_is_one(words: list[str], name: str) -> None:
    path = stored(words, FILES[name])
    for file in with_copy(path):
        file.unlink()
    text = refused(words)
    assert f"{path} is missing; " in text
    assert "the command " in text
    assert go(words) == 0
    assert report(ReportOptions(), words, console=quiet()) == 0


def test_which_prompts_were_judged_is_never_guessed(words: list[str]) -> None:
    path = stored(words, "scores/*/summary.json")
    for file in with_copy(path):
        file.unlink()
    assert f"{path} does not say which 3 prompts were judged; the command" in refused(words)
    assert go(words) == 0
    assert report(ReportOptions(), words, console=quiet()) == 0


@pytest.mark.parametrize(
    "name", [*FILES, "norms", "summary"], ids=lambda name: name.replace(" ", "_")
)
def test_a_damaged_file_is_named_and_its_remedy_is_one(words: list[str], name: str) -> None:
    more = {"norms": "probes/*/norms.parquet", "summary": "scores/*/summary.json"}
    path = stored(words, (FILES | more)[name])
    files = with_copy(path)
    for file in files:
        file.write_bytes(file.read_bytes()[:40])
    text = refused(words)
    assert f"{files[-1]} is damaged" in text
    assert re.search(r"the command (of the run|that [a-z ]+) makes it again", text)
    if path.suffix == ".parquet":
        assert path.with_name(f"{path.name}.damaged-1").is_file()
    assert go(words) == 0
    assert report(ReportOptions(), words, console=quiet()) == 0


def test_what_is_gone_and_fails_this_time_makes_its_cell_a_failed_one(words: list[str]) -> None:
    shutil.rmtree(stored(words, FILES["training"]).parent)
    bench, stream = FakeWorkbench(broken="sft aesthetic seed 0"), io.StringIO()
    code = run_whole(
        expand(words),
        console=Console(file=stream, width=160),
        make_workbench=lambda grid: bench.at(grid.store),
    )
    assert code == 1
    assert "FAILED sft-aesthetic-seed0" in stream.getvalue()
    assert "returned 3 values for 4 images" in stream.getvalue()
    assert go(words) == 0


def test_an_artefact_of_another_version_is_refused(words: list[str]) -> None:
    path = stored(words, "scores/*/artefact.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": STORE_VERSION + 1}))
    assert f"{path} is of store version {STORE_VERSION + 1}, and this soarbench" in refused(words)


def test_a_cell_of_another_version_is_refused(words: list[str]) -> None:
    path = stored(words, "grids/*/sft-*/cell.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": STORE_VERSION + 1}))
    other = stored(words, "grids/*/base-*/cell.json").parent.name
    with pytest.raises(UserError, match=rf"cell\.json is of store version {STORE_VERSION + 1}"):
        compare(
            path.parent.name, other, *read(CompareOptions, words), as_json=True, console=quiet()
        )


@pytest.mark.parametrize("named", [True, False])
def test_a_run_folder_of_soarbench_0_1_is_refused(words: list[str], named: bool) -> None:
    output_dir = expand(words).store.root
    shutil.rmtree(output_dir)
    (output_dir / "reward_specific" / "cells" / "sft-aesthetic-seed0-0123456789ab").mkdir(
        parents=True
    )
    chosen = words if named else [word for word in words if not word.startswith("grid=")]
    message = r"reward_specific/cells was written by soarbench 0\.1.*choose another output_dir"
    with pytest.raises(UserError, match=message) as caught:
        report(ReportOptions(), chosen, console=quiet())
    assert "\n" not in str(caught.value)
    if named:
        for is_dry in (True, False):
            with pytest.raises(UserError, match=message):
                run(words, is_dry=is_dry, as_json=False, console=quiet())
        with pytest.raises(UserError, match=message):
            diagnose(words, console=quiet())
    assert [path.name for path in output_dir.iterdir()] == ["reward_specific"]
