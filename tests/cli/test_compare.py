"""``compare``: methods of a grid, cells, and folders of scores."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from soarbench.store.grids import MANIFEST

from soarbench.cli.app import main
from soarbench.cli.compare import CompareOptions, compare
from soarbench.cli.words import read
from soarbench.common.errors import UserError
from soarbench.report.numbers.names import BASE
from tests.report.folders import (
    FACTS,
    TAGS,
    Folder,
    base,
    build_report,
    stored_facts,
    write_cell,
    write_grid,
)


def go(first: str, second: str, *words: str, as_json: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=80)
    request = read(CompareOptions, words)
    assert compare(first, second, *request, as_json=as_json, console=console) == 0
    return stream.getvalue()


def cells(seeds: tuple[int, ...] = (0, 1), **changes: object) -> list[Folder]:
    found = [base(num_prompts=24)]
    for seed in seeds:
        for method, gain in (("sft", 0.5), ("soar", 1.0)):
            for task, metrics in (("aesthetic", ("aesthetic",)), ("general", ("geneval", "ocr"))):
                found.append(
                    Folder(
                        method=method, task=task, seed=seed, metrics=metrics, num_prompts=24,
                        final_metric=metrics[0], gains=dict.fromkeys(metrics, gain), **changes,
                    )
                )  # fmt: skip
    return found


def publish(grid: Path, members: list[Folder]) -> None:
    """List the cells as an exported copy does, so that no configuration must be composed."""
    listed = [
        {"cell_id": one.cell_id, "task": one.task, "method": one.method, "seed": one.seed}
        for one in members
    ]
    manifest = {"version": 2, "grid": grid.name, "baseline": "sft", "cells": listed}
    (grid / MANIFEST).write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    publish(write_grid(root / "reward_specific", cells()), cells())
    return root


def test_two_methods_over_all_their_seeds(store: Path) -> None:
    text = go("soar", "sft", "task=aesthetic", f"output_dir={store}")
    assert "A: SOAR\nB: SFT" in text
    assert "SOAR against SFT, Aesthetic: better, +" in text
    assert "2 training seeds" in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text


def test_numbers_are_those_of_the_report(store: Path, tmp_path: Path) -> None:
    answer = json.loads(
        go("soar", "sft", "task=aesthetic", f"output_dir={store}", as_json=True)
    )["metrics"][0]  # fmt: skip
    report = build_report(store / "reward_specific", tmp_path, grid="reward_specific")
    row = next(row for row in report.tables[0].rows if row.method == "soar")
    assert answer["difference"] == vars(row.comparisons["aesthetic"].difference)
    assert answer["first"] == pytest.approx(row.estimates["aesthetic"].interval.estimate)
    assert answer["p_value"] == row.comparisons["aesthetic"].p_value
    assert answer["seeds"] == [0, 1]
    chance = answer["probability_of_improvement"]
    assert 0.5 < chance["low"] < chance["estimate"] < chance["high"] <= 1


def test_turning_the_question_round_turns_the_answer_round(store: Path) -> None:
    words = ("task=aesthetic", f"output_dir={store}")
    forth = json.loads(go("soar", "sft", *words, as_json=True))["metrics"][0]
    back = json.loads(go("sft", "soar", *words, as_json=True))["metrics"][0]
    assert back["difference"]["estimate"] == pytest.approx(-forth["difference"]["estimate"])
    assert (forth["verdict"], back["verdict"]) == ("better", "worse")
    chances = [one["probability_of_improvement"]["estimate"] for one in (forth, back)]
    assert sum(chances) == pytest.approx(1)


def test_verdicts_of_images_get_mcnemars_test(store: Path) -> None:
    text = go("soar", "sft", "task=general", f"output_dir={store}")
    assert "GenEval: A alone is right on" in text
    assert "OCR: A alone" not in text
    assert "Holm-corrected for 2" in text
    answer = json.loads(go("soar", "sft", "task=general", f"output_dir={store}", as_json=True))
    assert [one["metric"] for one in answer["metrics"]] == ["geneval", "ocr"]
    assert answer["metrics"][0]["mcnemar"]["p_value"] <= 1
    assert answer["metrics"][1]["mcnemar"] is None


def test_one_metric_at_an_earlier_step(store: Path) -> None:
    text = go("soar", "sft", "task=general", "metric=ocr", "step=50", f"output_dir={store}")
    assert "SOAR (step 50) and SFT (step 50)" in text
    assert "GenEval" not in text


def test_the_base_can_be_one_of_the_two(store: Path) -> None:
    assert "SOAR against Base" in go("soar", BASE, "task=aesthetic", f"output_dir={store}")


def test_two_cells_say_what_one_seed_leaves_out(store: Path) -> None:
    one, other = (
        Folder(method=name, task="general", seed=0).cell_id for name in ("soar", "sft")
    )  # fmt: skip
    text = go(one, other, f"output_dir={store}")
    assert "leave out what another seed would change" in " ".join(text.split())
    flat = " ".join(text.split())
    assert "GenEval: " in flat


def write_scores(folder: Path, judge: str, values: np.ndarray, **protocol: object) -> Path:
    """Files as ``score`` writes them: a row an image, and the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"prompts": "abc", "evaluator_version": "1", **protocol}
    stated = {**stored_facts(FACTS[judge]), **facts}
    rows = []
    for index, value in enumerate(values):
        prompt = f"{index // 2:05d}"
        rows.append(
            {
                "sample_id": f"{prompt}/{index % 2:04d}", "prompt_id": prompt, "prompt": "a cat",
                "image": "x.png", "image_sha256": "0", "fingerprint": json.dumps(facts),
                "value": None if np.isnan(value) else float(value),
                "failure": "dark" if np.isnan(value) else None, "tag": TAGS[index // 2 % 6],
            }
        )  # fmt: skip
    (folder / f"{judge}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    summary = {"evaluator": judge, "suite": "geneval", "protocol": stated}
    (folder / f"{judge}.summary.json").write_text(json.dumps(summary))
    return folder


def test_folders_of_scores_by_hand(tmp_path: Path) -> None:
    """24 prompts with two images; A is right on 12 images more than B."""
    right = np.tile([1.0, 0.0], 24)
    more = right.copy()
    more[1:24:2] = 1.0
    one, other = (
        write_scores(tmp_path / name, "geneval", values)
        for name, values in (("one", more), ("other", right))
    )
    answer = json.loads(go(str(one), str(other), as_json=True))["metrics"][0]
    assert answer["first"] == pytest.approx(0.75)
    assert answer["second"] == pytest.approx(0.5)
    assert answer["difference"]["estimate"] == pytest.approx(0.25)
    assert (answer["mcnemar"]["only_first"], answer["mcnemar"]["only_second"]) == (12, 0)
    assert answer["mcnemar"]["p_value"] == pytest.approx(2 / 2**12)
    assert answer["probability_of_improvement"]["estimate"] == pytest.approx(0.5 + 12 / 48 / 2)
    assert answer["verdict"] == "better"
    file = go(str(one / "geneval.jsonl"), str(other / "geneval.jsonl"))
    assert "better" in file


def test_images_without_a_score_are_left_out_of_both(tmp_path: Path) -> None:
    values = np.arange(48) / 48
    lost = values + 0.1
    lost[:2] = np.nan
    one = write_scores(tmp_path / "one", "clipscore", lost)
    other = write_scores(tmp_path / "other", "clipscore", values)
    answer = json.loads(go(str(one), str(other), as_json=True))["metrics"][0]
    assert answer["num_unscored"] == 2
    assert answer["first"] - answer["second"] == pytest.approx(0.1)
    assert "2 images are left out" in " ".join(go(str(one), str(other)).split())


@pytest.mark.parametrize("command_line", [True, False])
def test_unlike_protocols_are_refused_in_one_line_that_names_the_field(
    command_line: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.arange(48) / 48
    one = write_scores(tmp_path / "one", "clipscore", values)
    other = write_scores(tmp_path / "other", "clipscore", values, evaluator_version="2")
    if command_line:
        assert main(["compare", str(one), str(other)]) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
    else:
        with pytest.raises(UserError) as caught:
            go(str(one), str(other))
        text = str(caught.value)
    assert 'evaluator_version: "1" against "2"' in text


def test_unlike_fingerprints_of_methods_name_the_field(tmp_path: Path) -> None:
    members = cells((0,))
    grid = write_grid(tmp_path / "reward_specific", members)
    publish(grid, members)
    for folder in grid.glob("cells/*-aesthetic-*"):
        shift = 3.0 if folder.name.startswith("soar") else 1.0
        protocols = {"drawbench.aesthetic": {"shift": shift}}
        (folder / "protocols.json").write_text(json.dumps(protocols))
    with pytest.raises(UserError, match=r"shift: (1\.0 against 3\.0|3\.0 against 1\.0)"):
        go("soar", "sft", "task=aesthetic", f"output_dir={tmp_path}")


def test_what_cannot_be_compared_is_one_line_with_a_remedy(store: Path, tmp_path: Path) -> None:
    here = f"output_dir={store}"
    values = np.arange(48) / 48
    scored = write_scores(tmp_path / "one", "clipscore", values)
    fewer = write_scores(tmp_path / "fewer", "clipscore", values[:40])
    aesthetic = write_scores(tmp_path / "aesthetic", "aesthetic", values)
    (tmp_path / "empty").mkdir()
    cell_id = Folder(method="sft", task="general").cell_id
    for first, second, words, message in (
        ("sft", "sft", [here], "cannot be compared with itself"),
        ("soar", "sft", [here], "need one task: task=aesthetic, task=general"),
        ("soar", "sfft", [here], "did you mean 'sft'"),
        ("soar", "sft", [here, "task=aesthetic", "metric=ocr"], "metric='ocr' was not measured"),
        ("soar", "sft", [here, "task=aesthetic", "step=7"], "was evaluated at 50, 100, 150"),
        ("soar", "sft", [here, "step=x"], "must be an integer"),
        (cell_id, "sft", [here], "is a cell and the other is not"),
        (str(scored), "sft", [here], "is a folder of scores and the other is not"),
        (str(scored), str(aesthetic), [], "have no measurement in common"),
        (str(scored), str(fewer), [], "48 images in .* and 40 in"),
        (str(scored), str(tmp_path / "empty"), [], "holds no finished scores"),
        (str(scored), str(fewer), [here], "take metric= alone"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            go(first, second, *words)
        assert "\n" not in str(caught.value)


def test_a_damaged_file_of_scores_is_named(tmp_path: Path) -> None:
    one = write_scores(tmp_path / "one", "clipscore", np.arange(8) / 8)
    (tmp_path / "other.jsonl").write_text('{"value": 1}\n')
    with pytest.raises(UserError, match=r"other\.jsonl is damaged"):
        go(str(one), str(tmp_path / "other.jsonl"))


def test_a_tie_says_what_would_decide_it(tmp_path: Path) -> None:
    members = [
        Folder(method=name, task="aesthetic", seed=seed, num_prompts=24, metrics=("aesthetic",))
        for name in ("sft", "soar")
        for seed in (0, 1, 2)
    ]
    grid = tmp_path / "reward_specific"
    for one in members:
        write_cell(grid, one)
    publish(grid, members)
    text = " ".join(go("soar", "sft", f"output_dir={tmp_path}").split())
    assert "not distinguishable" in text
    assert "this design sees" in text
