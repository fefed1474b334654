"""Images of the last step by other samplers: what is drawn, judged, stored and compared."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from soarbench.cli.export import ExportOptions, export
from soarbench.cli.report import report
from soarbench.cli.run import diagnose, run_whole
from soarbench.config.settings import SamplingConfig
from soarbench.evaluation.drawing import Draw
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.grid.expand import expand
from soarbench.jobs.graph import diagnostic_keys, grid_jobs
from soarbench.report.numbers.robustness import robustness_points
from soarbench.report.options import ReportOptions
from soarbench.report.source import grid_cells
from soarbench.stats import Verdict
from tests.fakes import FakeWorkbench

#: Two samplers beside the usual one of 20 steps, which is asked for, too.
ENABLED = ["robustness.enabled=true", "robustness.num_inference_steps=[5,20]"]


class Drawing(FakeWorkbench):
    """Notes with which sampler images are drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.samplers: list[tuple[str, int, SamplingConfig]] = []

    def drawer(self, cell: CellConfig, step: int) -> Draw:
        self.samplers.append((cell.label, step, cell.sampling))
        return super().drawer(cell, step)


@pytest.fixture
def arguments(overrides: list[str]) -> list[str]:
    return [*overrides, "tracking=none", "task=aesthetic"]


def go(arguments: list[str], methods: str = "sft,soar") -> Drawing:
    bench = Drawing()
    console = Console(file=io.StringIO(), width=160)
    grid = expand([*arguments, f"method={methods}"])
    assert run_whole(grid, console=console, make_workbench=lambda g: bench.at(g.store)) == 0
    return bench


def points(results: Path) -> list[dict[str, str]]:
    with (results / "reward_specific" / "robustness_aesthetic.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def results_of(arguments: list[str]) -> Path:
    return Path(expand(arguments).settings.results_dir)


def test_the_last_step_alone_is_drawn_by_other_samplers_and_nothing_else_again(
    arguments: list[str],
) -> None:
    go(arguments)
    before = expand([*arguments, "method=sft,soar"])
    assert not (results_of(arguments) / "reward_specific" / "robustness_aesthetic.csv").exists()
    bench = go([*arguments, *ENABLED])
    usual = before.settings.sampling
    settings = {
        (one.num_inference_steps, one.state_noise, one.guidance_scale)
        for _, _, one in bench.samplers
    }
    steps, guidance = usual.num_inference_steps, usual.guidance_scale
    assert settings == {(5, None, guidance), (steps, 0.3, guidance), (steps, None, 1.0)}
    assert guidance != 1
    last = {cell.label: cell.steps[-1] for cell in before.cells}
    assert {(label, step) for label, step, _ in bench.samplers} == set(last.items())
    assert not any(call.startswith(("train", "probe", "states")) for call in bench.calls)
    assert go([*arguments, *ENABLED]).calls == []
    # And what the usual sampler gave is where it was.
    assert [addresses.cell_id(cell) for cell in before.cells] == [
        addresses.cell_id(cell) for cell in expand([*arguments, *ENABLED, "method=sft,soar"]).cells
    ]


def test_every_sampler_is_reported_the_usual_one_among_them(
    arguments: list[str], tmp_path: Path
) -> None:
    words = [*arguments, *ENABLED, "method=sft,soar"]
    go([*arguments, *ENABLED])
    rows = points(results_of(words))
    names = ("num_inference_steps", "state_noise", "guidance_scale", "is_usual")
    assert {tuple(row[name] for name in names) for row in rows} == {
        ("5", "0.0", "3.0", "False"),
        ("20", "0.0", "3.0", "True"),
        ("20", "0.3", "3.0", "False"),
        ("20", "0.0", "1.0", "False"),
    }
    assert {row["metric"] for row in rows} == {"oracle_aesthetic"}
    assert {row["method"] for row in rows} == {"base", "sft", "soar"}
    compared = [row for row in rows if row["verdict"]]
    assert {(row["method"], row["baseline"]) for row in compared} == {("soar", "sft")}
    assert not any(row["is_usual"] == "True" for row in compared)
    # The fakes' images do not depend on the sampler, so nothing changes between methods.
    assert {float(row["interaction"]) for row in compared} == {0.0}
    # Of a metric that decides nothing there is no verdict.
    cells = [
        replace(cell, description={**cell.description, "final_metric": None})
        for cell in grid_cells(words).cells
    ]
    others = robustness_points(cells, "aesthetic", "sft")
    assert {one.verdict for one in others} == {None, Verdict.EXPLORATORY}
    assert {one.adjusted_p_value for one in others} == {None}
    markdown = (results_of(words) / "reward_specific" / "table.md").read_text()
    assert "### Scores by sampler" in markdown
    heads = re.findall(r"^\| .*, (\d+ steps.*?) \|", markdown, re.M)
    # By number of steps, with noise, with other guidance.
    assert heads == ["5 steps", "20 steps (usual)", "20 steps, noise 0.3", "20 steps, guidance 1"]
    export(ExportOptions(output=tmp_path / "copy"), words, console=Console(file=io.StringIO()))
    copy = [f"output_dir={tmp_path / 'copy'}", f"results_dir={tmp_path / 'again'}"]
    copy.append("figure_formats=[]")
    report(ReportOptions(), copy, console=Console(file=io.StringIO()))
    assert points(tmp_path / "again") == rows


def test_diagnose_draws_them_too_and_only_of_finished_cells(arguments: list[str]) -> None:
    go([*arguments, "diagnostics=false"], "sft")
    bench, words = Drawing(), [*arguments, *ENABLED, "method=sft,soar"]
    grid = expand(words)
    code = diagnose(
        words, console=Console(file=io.StringIO()), make_workbench=lambda g: bench.at(g.store)
    )
    assert code == 1  # SOAR's cell was never run
    assert {label for label, _, _ in bench.samplers} == {"base", "sft aesthetic seed 0"}
    jobs = grid_jobs(grid.cells, diagnostics=True)
    probing = diagnostic_keys(jobs, grid.cells)
    own = [job for job in jobs if job.key in probing and job.cell.label in ("base",)]
    assert own
    assert all(job.is_done(grid.store) for job in own)


def test_fewer_samplers_are_reported_without_drawing_again(arguments: list[str]) -> None:
    go([*arguments, *ENABLED])
    one = [*arguments, "robustness.enabled=true", "robustness.num_inference_steps=[5]"]
    assert {row["num_inference_steps"] for row in points(results_of(arguments))} == {"5", "20"}
    bench = go([*one, "robustness.state_noise=[]", "robustness.guidance_scale=[]"])
    assert bench.samplers == []
    assert len({row["state_noise"] for row in points(results_of(arguments))}) == 1
