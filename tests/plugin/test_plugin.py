"""Another person's package: every kind of component, through the real command line."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from soarbench.cli.app import main
from soarbench.grid.description import describe
from soarbench.grid.expand import expand
from soarbench.jobs.graph import grid_jobs, waiting_on

PACKAGES = Path(__file__).parent
ROOT = PACKAGES.parents[1]
CONF = PACKAGES / "toyplugin/conf"
WITH_CONF = f"conf_dir={CONF}"


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """The package as if it were installed."""
    sys.path.insert(0, str(PACKAGES))
    yield
    sys.path.remove(str(PACKAGES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training pictures, four of each colour."""
    root = tmp_path_factory.mktemp("plugin")
    colors = importlib.import_module("toyplugin.palette").COLORS
    (root / "pictures").mkdir()
    for name, rgb in colors.items():
        for index in range(4):
            noise = np.random.default_rng(index).integers(-30, 30, (8, 8, 3))
            pixels = np.clip(np.array(rgb) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"pictures/a {name} square.{index}.png")
    return root


def words(folder: Path, store: str = "runs") -> list[str]:
    return [
        "grid=palette",
        "model=pixels",
        f"data.path={folder / 'pictures'}",
        f"output_dir={folder / store}",
        f"results_dir={folder / 'results'}",
        "tracking=none",
        "device=cpu",
        "figure_formats=[png]",
        "budget.steps=20",
        "budget.num_snapshots=2",
        "budget.save_steps=10",
        "budget.images_per_prompt=1",
    ]


def call(*arguments: str) -> int:
    """A command as it is typed."""
    return main(arguments)


@pytest.fixture(scope="module")
def finished(folder: Path) -> list[str]:
    """Words of a grid that was run."""
    arguments = [*words(folder), WITH_CONF]
    assert call("run", *arguments) == 0
    return arguments


def scores(store: Path) -> dict[str, object]:
    """Every row of every judge, by address."""
    paths = sorted(store.glob("scores/*/rows.parquet"))
    return {path.parent.name: pq.read_table(path).to_pylist() for path in paths}


def results(folder: Path, name: str) -> str:
    return (folder / "results/palette" / name).read_text()


def test_a_run_reports_the_plugins_method_and_judge(folder: Path, finished: list[str]) -> None:
    assert finished
    for name in ("table.md", "table.tex", "index.html"):
        text = results(folder, name)
        assert "Huber SFT" in text
        assert "Colour error" in text
        assert "huber against" not in text
    (task,) = json.loads(results(folder, "summary.json"))["tasks"]
    base = task["methods"]["base"]["metrics"]["color_error"]
    assert base["difference"] > 0
    assert base["verdict"] == "this checkpoint is worse"
    assert task["findings"][0].startswith("Huber SFT against SFT, Colour error")
    points = pd.read_csv(folder / "results/palette/overoptimisation_palette.csv")
    scores = points[(points["metric"] == "color_error") & (points["method"] == "huber")]
    (marked,) = scores[scores["is_marked"]]["value"]
    assert marked == scores["value"].min()


def test_the_report_is_made_again(
    folder: Path, finished: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = results(folder, "table.md")
    assert call("report", *finished) == 0
    assert results(folder, "table.md") == before
    assert "Huber SFT" in capsys.readouterr().out


def test_methods_are_compared(finished: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("compare", "huber", "base", *finished, "--json") == 0
    (metric,) = json.loads(capsys.readouterr().out)["metrics"]
    assert metric["first"] < metric["second"]
    assert metric["verdict"] == "this checkpoint is better"
    assert metric["probability_of_improvement"]["estimate"] > 0.9
    assert call("compare", "huber", "base", *finished) == 0
    assert "A: Huber SFT" in capsys.readouterr().out


def test_images_of_anybody_are_scored_and_compared(
    folder: Path, finished: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    palette = importlib.import_module("toyplugin.palette")
    suite = palette.PaletteSuite(name="palette", judges=())
    for index, item in enumerate(suite.items()):
        place = folder / f"drawn/{index:05d}"
        (place / "samples").mkdir(parents=True)
        (place / "metadata.jsonl").write_text(json.dumps({"prompt": item.prompt}) + "\n")
        (rgb,) = palette.colors_of(item.prompt)
        Image.new("RGB", (8, 8), rgb).save(place / "samples/0000.png")
    output = folder / "scored"
    scored = ["suite=palette", f"images={folder / 'drawn'}", f"output={output}", WITH_CONF]
    assert call("score", *scored) == 0
    assert "color_error: 8 images, 8 prompts" in capsys.readouterr().out
    assert call("compare", str(output), "sft", *finished, "--json") == 0
    (metric,) = json.loads(capsys.readouterr().out)["metrics"]
    assert metric["first"] == 0
    assert metric["verdict"] == "this checkpoint is better"


def test_the_model_is_evaluated_as_the_run_did(
    folder: Path, finished: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = ["suite=palette", f"output={folder / 'evaluated'}", f"output_dir={folder / 'runs'}"]
    drawn += ["device=cpu", "suites.palette.images_per_prompt=1", WITH_CONF]
    images = set((folder / "runs/images").iterdir())
    assert call("evaluate", "model=pixels", *drawn) == 0
    # The base's images and scores are the run's own.
    assert set((folder / "runs/images").iterdir()) == images
    capsys.readouterr()
    assert call("compare", str(folder / "evaluated"), "base", *finished, "--json") == 0
    (metric,) = json.loads(capsys.readouterr().out)["metrics"]
    assert metric["first"] == metric["second"]


def test_memory_and_time_are_planned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("plan", "method=huber,sft", *words(folder), WITH_CONF) == 0
    text = capsys.readouterr().out
    assert "pixels at 8 px" in text
    assert "huber" in text


def test_doctor_knows_the_judge(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor", "color_error", WITH_CONF) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "color_error │ ready" in text
    assert call("doctor", "color_error") == 2


def test_a_dry_run_estimates_by_the_methods_own_rate(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = [*words(folder, "none"), WITH_CONF, "--dry-run"]
    assert call("run", *fresh, "--json") == 0
    jobs = json.loads(capsys.readouterr().out)
    seconds = {job["cell"].split("-")[0]: job["seconds"] for job in jobs if job["kind"] == "train"}
    assert seconds["huber"] == 20 * 0.01


def test_any_order_of_jobs_gives_the_same_numbers(folder: Path, finished: list[str]) -> None:
    arguments = [*words(folder, "shuffled"), WITH_CONF]
    grid = expand(arguments)
    jobs = grid_jobs(grid.cells, diagnostics=True)
    shuffled = importlib.import_module("toyplugin.shuffled").ShuffledConfig().build()
    order = shuffled.ordered(jobs)
    assert order != jobs
    assert sorted(job.key for job in order) == sorted(job.key for job in jobs)
    for index, job in enumerate(order):
        assert not waiting_on(job, order[index:])
    assert call("run", *arguments, "launcher=shuffled", "launcher.seed=3") == 0
    assert finished
    assert scores(folder / "shuffled") == scores(folder / "runs")


def test_a_builtin_method_is_rewarded_by_the_judge_through_an_adapter(folder: Path) -> None:
    arguments = [
        *(*words(folder, "rewarded"), WITH_CONF),
        *("grid.methods=[flow_grpo]", "grid.baseline=base", "grid.checkpoint_rule=last"),
        *("reward=color_error", "budget.steps=4", "budget.save_steps=2", "lora.rank=2"),
        *("training.batch_size=8", "training.micro_batch_size=null"),
        *("training.mixed_precision=no", "method.group_size=4", "method.num_inference_steps=4"),
        *(
            "method.guidance_scale=1.0",
            "method.sde_window_range=[0,4]",
            "diagnostics=false",
            "ema.every=1",
        ),
    ]
    assert call("run", *arguments) == 0
    (weights,) = (folder / "rewarded/trainings").glob("flow_grpo-*/snapshots/*4")
    assert (weights / "adapter_config.json").is_file()


def test_a_second_stage_is_called_by_both_titles(folder: Path) -> None:
    grid = expand([*words(folder), WITH_CONF, "grid.methods=[sft,sft_then_huber]"])
    titles = {cell.method_name: describe(cell, grid.cells)["title"] for cell in grid.cells}
    assert titles == {"base": None, "sft": "SFT", "sft_then_huber": "SFT → Huber SFT"}


def test_a_set_of_the_plugins_form_is_checked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = ["data=named_pictures", f"data.path={folder / 'pictures'}", "model=pixels"]
    output = f"output={folder / 'check.jsonl'}"
    # Captions repeat: four pictures of each colour.
    assert call("data", "check", *checked, output, WITH_CONF) == 1
    assert "24 │ captions that another row has too" in capsys.readouterr().out
    # A task that a model has no protocol of does not stand in the way of others.
    checked[-1] = "model.resolution=16"
    assert call("data", "check", *checked, output, WITH_CONF) == 1
    assert "suite 'drawbench'" in capsys.readouterr().out


def test_an_installed_package_needs_no_folder(folder: Path) -> None:
    """An entry point in the group ``soarbench.conf`` names its YAML."""
    info = folder / "site/toyplugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toyplugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[soarbench.conf]\ntoys = toyplugin.conf\n")
    path = os.pathsep.join([str(ROOT), str(info.parent), str(PACKAGES)])
    done = subprocess.run(
        [sys.executable, "-m", "soarbench", "run", *words(folder, "none"), "--dry-run"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "huber-palette-seed0" in done.stdout


def test_the_page_shows_the_files_that_are_tested() -> None:
    page = (ROOT / "docs/add_your_own.md").read_text()
    shown = dict(re.findall(r"^`(toyplugin/\S+)`\n\n```\w+\n(.*?)```$", page, re.M | re.S))
    files = [path for path in CONF.parent.rglob("*") if path.suffix in (".py", ".yaml")]
    written = {str(path.relative_to(PACKAGES)): path.read_text() for path in files}
    del written["toyplugin/__init__.py"]
    assert shown.keys() == written.keys()
    for name, text in written.items():
        assert shown[name] == text, f"docs/add_your_own.md shows another {name}"
    assert "docs/add_your_own.md" in (ROOT / "README.md").read_text()


def test_the_page_makes_what_its_commands_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs/add_your_own.md").read_text()
    (code,) = re.findall(r"<<'END'\n(.*?)^END$", page, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    trained = ["grid=palette", "model=pixels", "data.path=pictures", WITH_CONF]
    assert call("run", *trained, "--dry-run") == 0
    assert call("score", "suite=palette", "images=drawn", "output=scored", WITH_CONF) == 0
    assert "color_error: 8 images, 8 prompts" in capsys.readouterr().out


def test_without_either_its_names_are_unknown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for asked in (words(folder), ["grid=palette"]):
        assert call("run", *asked) == 2
    said = capsys.readouterr().err
    assert "model='pixels' does not exist" in said
    assert "grid='palette' does not exist" in said
