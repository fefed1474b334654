"""What one grid has done, another does not do again."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from soarbench.cli.run import run_plan
from soarbench.grid.cell import CellConfig
from soarbench.grid.expand import Plan, expand
from soarbench.store.cell_folder import CellFolder
from soarbench.store.reuse import adopt
from tests.fakes import FakeBench


def arguments_of(grid: str, overrides: list[str]) -> list[str]:
    return [f"grid={grid}", *overrides[1:], "tracking=none", "task=aesthetic"]


def go(arguments: list[str]) -> tuple[FakeBench, str]:
    bench, stream = FakeBench(), io.StringIO()
    console = Console(file=stream, width=160)
    assert run_plan(expand(arguments), console=console, make_bench=lambda _: bench) == 0
    return bench, stream.getvalue()


def folder_of(plan: Plan, method: str) -> tuple[CellConfig, CellFolder]:
    (cell,) = [cell for cell in plan.cells if cell.method_name == method]
    return cell, CellFolder(plan.cell_folder(cell))


def test_a_second_grid_takes_over_what_the_first_has_trained(overrides: list[str]) -> None:
    first = arguments_of("reward_specific", overrides)
    second = arguments_of("soar_then_grpo", overrides)
    go(first)
    bench, told = go(second)
    trained = [call for call in bench.calls if call.startswith("train")]
    assert trained == [
        "train sft_then_flow_grpo aesthetic seed 0",
        "train soar_then_flow_grpo aesthetic seed 0",
    ]
    assert "soar aesthetic seed 0: done in grid reward_specific" in told
    _, source = folder_of(expand(first), "soar")
    cell, adopted = folder_of(expand(second), "soar")
    assert adopted.is_finished()
    assert adopted.status().budget == source.status().budget
    theirs, ours = (pq.read_table(f.scores_table).to_pylist() for f in (source, adopted))
    assert {row["cell_id"] for row in ours} == {cell.cell_id}
    assert {row["cell_id"] for row in theirs} == {source.root.name}
    assert [row["value"] for row in ours] == [row["value"] for row in theirs]
    weights = adopted.snapshot(6) / "weights"
    assert weights.stat().st_ino == (source.snapshot(6) / "weights").stat().st_ino


def test_another_configuration_is_other_work(overrides: list[str], tmp_path: Path) -> None:
    go(arguments_of("reward_specific", overrides))
    changed = expand([*arguments_of("soar_then_grpo", overrides), "optim.learning_rate=0.001"])
    cell, folder = folder_of(changed, "soar")
    assert adopt(cell, folder, tmp_path / "runs") is None
    assert not folder.root.exists()


def test_unfinished_work_is_not_taken(overrides: list[str], tmp_path: Path) -> None:
    first = arguments_of("reward_specific", overrides)
    go(first)
    folder_of(expand(first), "soar")[1].update_status(state="running")
    cell, folder = folder_of(expand(arguments_of("soar_then_grpo", overrides)), "soar")
    assert adopt(cell, folder, tmp_path / "runs") is None


def test_a_kill_while_taking_over_leaves_nothing_behind(
    overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(arguments_of("reward_specific", overrides))
    plan = expand(arguments_of("soar_then_grpo", overrides))
    cell, folder = folder_of(plan, "soar")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("soarbench.store.reuse._rename", killed)
        with pytest.raises(KeyboardInterrupt):
            adopt(cell, folder, tmp_path / "runs")
    assert not folder.root.exists()
    assert adopt(cell, folder, tmp_path / "runs") == "reward_specific"
    assert not (plan.folder / "adopting").exists()
