"""What a grid of trials chooses: by hand, over tasks, at edges, and with trials missing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from soarbench.report.numbers.panels import build_panels
from soarbench.report.numbers.tuning import Choice, choices
from soarbench.report.text.tuning import choice_lines
from tests.report.folders import Folder, base, build_report, cells_of, reward_specific, write_grid

#: Trials of each method: settings, and the gain in each of the two tasks.
SFT = {
    "sft": ({"lr": 3e-4, "dropout": 0.0}, (0.5, 0.5)),
    "sft_slow": ({"lr": 1e-4, "dropout": 0.0}, (0.1, 0.1)),
    "sft_fast": ({"lr": 9e-4, "dropout": 0.0}, (2.0, -2.0)),
    "sft_dropped": ({"lr": 3e-4, "dropout": 0.1}, (-1.0, 0.0)),
}
SOAR = {
    "soar": ({"lr": 3e-4, "kind": "a"}, (0.2, 0.2)),
    "soar_fast": ({"lr": 9e-4, "kind": "a"}, (1.5, 1.5)),
    "soar_other": ({"lr": 3e-4, "kind": "b"}, (0.2, -0.5)),
}
TASKS = (("one", "aesthetic"), ("two", "ocr"))


def write(folder: Path, missing: str = "", trials: Mapping = SFT | SOAR) -> Path:
    cells = [base(num_prompts=12)]
    for name, (_, gains) in trials.items():
        for (task, metric), gain in zip(TASKS, gains, strict=True):
            state = "failed" if name == missing and task == "two" else "finished"
            cells.append(
                Folder(
                    method=name, task=task, metrics=(metric,), final_metric=metric, steps=(50,),
                    gains={metric: gain}, num_prompts=12, state=state, seed=1000,
                )
            )  # fmt: skip
    write_grid(folder, cells)
    for path in folder.glob("cells/*/config.json"):
        values = json.loads(path.read_text())
        if values["method"] in trials:
            lr, other = trials[values["method"]][0].values()
            values |= {
                "trial_of": values["method"].partition("_")[0],
                "config": {
                    **values["config"],
                    "optim": {"learning_rate": lr, "schedule": "constant"},
                    "method": {"other": other},
                    "training": {"steps": 50},
                    "ema": None,
                },
            }
            path.write_text(json.dumps(values))
    return folder


def chosen(folder: Path) -> dict[str, Choice]:
    cells = cells_of(folder)
    panels, _ = build_panels([cell for cell in cells if cell.state == "finished"])
    return {choice.method: choice for choice in choices(cells, panels)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tuning") / "tuning")


def test_the_best_trial_is_that_of_the_highest_mean_gain(folder: Path) -> None:
    by_method = chosen(folder)
    assert list(by_method) == ["sft", "soar"]
    # The fast one wins a task by more than the recipe does, and loses the other.
    assert by_method["sft"].best == "sft"
    assert by_method["soar"].best == "soar_fast"
    best = by_method["soar"].of("soar_fast")[0]
    assert best.settings == {"method.other": "a", "optim.learning_rate": 9e-4}


def test_trials_stand_in_one_order_whatever_the_order_of_cells(folder: Path) -> None:
    """A store and its export have cells in orders of their own."""
    cells = cells_of(folder)
    panels, _ = build_panels(cells)
    one, other = choices(cells, panels), choices(cells[::-1], panels)
    assert one == other
    assert [(trial.name, trial.task) for trial in one[0].trials[:3]] == [
        ("sft", "one"), ("sft", "two"), ("sft_dropped", "one"),
    ]  # fmt: skip


def test_a_gain_is_in_spreads_of_the_base_and_a_difference_is_to_the_recipe(folder: Path) -> None:
    cells = cells_of(folder)
    panel = build_panels(cells)[0]["two", "ocr"]
    base_values = next(values for run, values in panel.values.items() if run.method == "base")
    by_name = {
        run.method: values.mean() for run, values in panel.values.items() if run.method != "base"
    }
    choice = chosen(folder)["sft"]
    for name, mean in by_name.items():
        if name.startswith("sft"):
            [trial] = [one for one in choice.of(name) if one.task == "two"]
            expected = (mean - base_values.mean()) / base_values.std()
            assert trial.gain == pytest.approx(expected)
            if name == "sft":
                assert trial.to_recipe is None
            else:
                assert trial.to_recipe is not None
                assert trial.to_recipe.estimate == pytest.approx(mean - by_name["sft"])
    gains = [one.gain for one in choice.of("sft_slow")]
    assert choice.mean_gain("sft_slow") == pytest.approx(np.mean(gains))


@pytest.mark.parametrize("start", [0.0, 0.7])
def test_a_base_without_spread_is_measured_in_the_metrics_own_unit(
    folder: Path, start: float
) -> None:
    cells = cells_of(folder)
    panels = dict(build_panels(cells)[0])
    panel = panels["two", "ocr"]
    still = {
        run: np.full_like(values, start) if run.method == "base" else values
        for run, values in panel.values.items()
    }
    panels["two", "ocr"] = dataclasses.replace(panel, values=still)
    choice = next(one for one in choices(cells, panels) if one.method == "sft")
    trials = [one for one in choice.trials if one.task == "two"]
    values = [one.value.estimate for one in trials if one.value is not None]
    assert [one.gain for one in trials] == pytest.approx([value - start for value in values])


def test_an_edge_is_an_end_of_what_was_tried_and_zero_is_none(folder: Path) -> None:
    by_method = chosen(folder)
    # The recipe's dropout is 0, below which there is nothing; its rate is the middle one.
    assert by_method["sft"].edges == ()
    assert by_method["soar"].edges == ("optim.learning_rate",)
    assert by_method["sft"].span("optim.learning_rate") == [1e-4, 3e-4, 9e-4]
    # Of what is no number there is no end.
    assert by_method["soar"].span("method.other") == []
    lines = list(choice_lines(list(by_method.values())))
    assert (
        "SFT: the best of 4 trials is sft (method.other=0 optim.learning_rate=0.0003)" in lines[0]
    )
    assert "at no edge" in lines[0]
    assert "at the edge of optim.learning_rate (0.0003 to 0.0009): try beyond it" in lines[1]


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ((1, 2, 4), ()),  # of images kept: fewer than one there are not
        ((0, 0.1, 0.2), ()),
        ((4, 2, 1), ("method.other",)),
        ((1.0, 3.0, 9.0), ("method.other",)),  # of a weight there are lower ones
        ((2, 4, 8), ("method.other",)),
        ((2, 1, 4), ()),
    ],
)
def test_where_nothing_lies_below_there_is_no_edge(
    values: tuple[float, ...], edges: tuple[str, ...], tmp_path: Path
) -> None:
    """The first is the best of them."""
    trials = {
        name: ({"lr": 3e-4, "kept": value}, (gain, gain))
        for name, value, gain in zip(("sft", "sft_b", "sft_c"), values, (2, 1, 0), strict=True)
    }
    folder = write(tmp_path / "tuning", trials=trials)
    assert chosen(folder)["sft"].best == "sft"
    assert chosen(folder)["sft"].edges == edges


def test_nothing_is_chosen_while_a_trial_is_missing(tmp_path: Path) -> None:
    by_method = chosen(write(tmp_path / "tuning", missing="sft_slow"))
    assert by_method["sft"].best is None
    assert by_method["soar"].best == "soar_fast"
    [line, _] = choice_lines(list(by_method.values()))
    assert line == "SFT: nothing is chosen, as long as sft_slow is missing."


def test_reports_print_and_store_the_choice(folder: Path, tmp_path: Path) -> None:
    report = build_report(folder, tmp_path, grid="tuning", baseline="base")
    text = (report.folder / "table.md").read_text()
    assert "## Chosen" in text
    assert "SOAR: the best of 3 trials is soar_fast" in text
    assert "are no results" in text
    assert "the best of 3 trials is soar_fast" in (report.folder / "index.html").read_text()
    stored = pd.read_csv(report.folder / "tuning.csv")
    assert len(stored) == 2 * len(SFT | SOAR)
    best = stored[stored["is_best"]]
    assert dict(zip(best["method"], best["trial"], strict=True)) == {
        "sft": "sft",
        "soar": "soar_fast",
    }
    assert set(best.loc[best["method"] == "soar", "edges"]) == {"optim.learning_rate"}


def test_other_grids_choose_nothing(tmp_path: Path) -> None:
    folder = write_grid(tmp_path / "grid", reward_specific(seeds=(0,), num_prompts=12))
    assert chosen(folder) == {}
