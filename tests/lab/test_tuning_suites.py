"""What settings are chosen by is not what results are measured on."""

from __future__ import annotations

import pytest

from soarbench.config.registries import suite_named
from soarbench.grid.expand import expand

PARTS = ("drawbench", "geneval")


def prompts(name: str) -> set[str]:
    return {item.prompt for item in suite_named(name).items()}


def test_tuning_suites_ask_for_nothing_that_a_test_suite_asks_for() -> None:
    tested = set.union(*(prompts(f"lab_{part}") for part in (*PARTS, "ocr")))
    for part in PARTS:
        tuned = prompts(f"lab_tuning_{part}")
        assert len(tuned) == len(suite_named(f"lab_tuning_{part}").items()) >= 40
        assert not tuned & tested


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("tuning", ("sft", "soar", "flow_grpo")),
        ("tuning_rivals", ("diffusion_nft", "awm", "best_of_group", "online_dpo")),
    ],
)
def test_tuning_grids_look_at_tuning_suites_alone_and_decide_by_the_truth(
    name: str, methods: tuple[str, ...]
) -> None:
    grid = expand([f"grid={name}", "budget=tuning"])
    names = {suite.name for cell in grid.cells for suite in cell.suites.values()}
    assert names == {"lab_tuning_drawbench", "lab_tuning_geneval"}
    finals = {cell.task.final_metric for cell in grid.cells if cell.task is not None}
    assert finals == {"oracle_aesthetic", "oracle_geneval"}
    # As many trials of every method, with a seed of its own.
    trials = [cell.trial_of for cell in grid.cells if cell.trial_of is not None]
    assert {method: trials.count(method) for method in trials} == dict.fromkeys(methods, 10)
    assert {cell.seed for cell in grid.cells if cell.trial_of is not None} == {1000}
