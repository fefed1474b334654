"""A cell that starts from another's weights: planned, run, resumed, failing, reported."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from soarbench.cli.run import run_whole
from soarbench.common.errors import ConfigError
from soarbench.common.files import read_json
from soarbench.config.stages import first_stage, stages
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.grid.description import cell_record, describe
from soarbench.grid.expand import expand, require_baseline
from soarbench.report.figures.curves import draw_curves
from soarbench.report.numbers.curves import CurvePoint
from soarbench.report.numbers.names import method_title, ordered_methods
from tests.fakes import FakeWorkbench
from tests.report.folders import FACTS

TWO_STAGES = ("sft", "soar", "sft_then_flow_grpo", "soar_then_flow_grpo")


@pytest.fixture
def arguments(overrides: list[str]) -> list[str]:
    return ["grid=soar_then_grpo", *overrides[1:], "tracking=none", "task=aesthetic"]


def cells_of(arguments: list[str]) -> dict[str, CellConfig]:
    return {cell.method_name: cell for cell in expand(arguments).cells}


def go(arguments: list[str], bench: FakeWorkbench) -> tuple[int, str]:
    stream = io.StringIO()
    console = Console(file=stream, width=160)
    # What it was asked is counted in this process.
    grid = expand([*arguments, "launcher.workers=1"])
    code = run_whole(grid, console=console, make_workbench=lambda grid: bench.at(grid.store))
    return code, stream.getvalue()


def test_names_of_methods_say_their_stages() -> None:
    assert stages("soar_then_flow_grpo") == ("soar", "flow_grpo")
    assert first_stage("soar_then_flow_grpo") == "soar"
    assert first_stage("soar") == ""
    assert first_stage("a_then_b_then_c") == "a_then_b"
    assert method_title("soar_then_flow_grpo") == "SOAR → Flow-GRPO"
    assert ordered_methods(["sft_then_flow_grpo", "soar", "base"]) == [
        *("base", "soar", "sft_then_flow_grpo")
    ]


def test_a_second_stage_names_the_cell_and_the_step_it_starts_from(arguments: list[str]) -> None:
    cells = cells_of(arguments)
    assert tuple(cells) == ("base", *TWO_STAGES)
    second, first = cells["soar_then_flow_grpo"], cells["soar"]
    origin, training = addresses.training(first), addresses.training(second)
    assert origin is not None
    assert training is not None
    assert training.inputs == (origin.address,)
    assert second.rewards == {"aesthetic": 1.0}
    assert cells["sft"].parent is None


def test_the_address_of_a_second_stage_follows_its_first(arguments: list[str]) -> None:
    before, after = cells_of(arguments), cells_of([*arguments, "method.aux_weight=0.5"])
    changed = {
        name for name in before if addresses.cell_id(before[name]) != addresses.cell_id(after[name])
    }
    assert changed == {"soar", "soar_then_flow_grpo"}


def test_a_second_stage_alone_brings_its_first(arguments: list[str]) -> None:
    cells = cells_of([*arguments, "method=soar_then_flow_grpo"])
    assert tuple(cells) == ("base", "soar", "soar_then_flow_grpo")
    three = cells_of([*arguments, "grid.methods=[sft_then_soar_then_flow_grpo]"])
    assert tuple(three) == ("base", "sft", "sft_then_soar", "sft_then_soar_then_flow_grpo")
    last = three["sft_then_soar_then_flow_grpo"].parent
    assert last is not None
    assert last.parent == three["sft"]
    with pytest.raises(ConfigError, match="'sft_then_dpo' does not exist"):
        expand([*arguments, "grid.methods=[sft_then_dpo]"])


def test_the_baseline_is_one_of_the_grid(arguments: list[str]) -> None:
    for words in ([], ["grid.baseline=soar"], ["grid.baseline=base"]):
        require_baseline(expand([*arguments, *words]).settings.grid)
    with pytest.raises(ConfigError, match=r"baseline='awm': is not among .* choose among base, s"):
        require_baseline(expand([*arguments, "grid.baseline=awm"]).settings.grid)


def test_stages_run_in_order_and_the_report_shows_both(arguments: list[str]) -> None:
    bench = FakeWorkbench()
    code, text = go(arguments, bench)
    assert code == 0
    trained = [call for call in bench.calls if call.startswith("train")]
    assert trained == [f"train {method} aesthetic seed 0" for method in TWO_STAGES]
    grid, cells = expand(arguments), cells_of(arguments)
    weights = {
        name: (bench.folder(cells[name]).snapshot(6) / "weights").read_text() for name in TWO_STAGES
    }
    assert len(set(weights.values())) == 4
    for title in ("SFT → Flow-GRPO", "SOAR → Flow-GRPO"):
        assert title in text
    summary = read_json(Path(grid.settings.results_dir) / "soar_then_grpo" / "summary.json")
    assert summary["partial"] is False


def test_a_failed_first_stage_fails_its_second_with_the_reason(arguments: list[str]) -> None:
    code, text = go(arguments, FakeWorkbench(broken="soar aesthetic seed 0"))
    assert code == 1
    grid = expand(arguments)
    states = {}
    for cell in grid.cells:
        status = cell_record(grid.store, describe(cell, grid.cells)).status()
        assert status is not None
        states[cell.method_name] = (status.state, status.reason)
    assert states["sft_then_flow_grpo"] == ("finished", None)
    state, reason = states["soar_then_flow_grpo"]
    assert state == "failed"
    assert reason is not None
    assert "trainings/soar-" in reason
    assert "returned 3 values for 4 images" in reason
    assert text.count("FAILED") == 2

    bench = FakeWorkbench()
    assert go(arguments, bench)[0] == 0
    assert [call for call in bench.calls if call.startswith("train")] == [
        "train soar aesthetic seed 0",
        "train soar_then_flow_grpo aesthetic seed 0",
    ]


def point(method: str, step: int, value: float) -> CurvePoint:
    return CurvePoint(
        task="t", metric="aesthetic", method=method, step=step, value=value, low=value,
        high=value, num_prompts=9, num_seeds=1, spent={"seconds": 2.0 * step},
    )  # fmt: skip


@pytest.mark.parametrize(("x", "expected"), [("step", [6, 9, 12]), ("seconds", [12, 18, 24])])
def test_the_curve_of_a_second_stage_goes_on_where_its_first_ended(
    x: str, expected: list[int]
) -> None:
    points = [
        *(point("base", 0, 1.0), point("soar", 3, 2.0), point("soar", 6, 3.0)),
        *(point("soar_then_flow_grpo", 3, 4.0), point("soar_then_flow_grpo", 6, 5.0)),
    ]
    (axes,) = draw_curves(points, FACTS, x=x).axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    second = lines["SOAR → Flow-GRPO"]
    assert list(second.get_xdata()) == expected
    assert list(second.get_ydata()) == [3.0, 4.0, 5.0]
    assert list(lines["SOAR"].get_ydata()) == [2.0, 3.0]
