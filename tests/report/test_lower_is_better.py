"""A user's judge of which less is better: every verdict, threshold, choice and gain is right."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from soarbench.cli.compare import CompareOptions, compare
from soarbench.cli.words import read
from soarbench.report.numbers.budgets import matched_tables
from soarbench.report.numbers.checkpoints import marked_steps
from soarbench.report.numbers.curves import build_curves
from soarbench.report.numbers.gaming import measure_gaming
from soarbench.report.numbers.panels import build_panels
from soarbench.report.numbers.tables import build_tables
from soarbench.report.numbers.thresholds import crossings
from tests.report.folders import (
    FACTS,
    Folder,
    base,
    build_report,
    publish,
    read_cells,
    write_grid,
    write_scored,
)

#: The names are only names: here the judge counts artefacts, and its oracle does.
LOWER = FACTS | {
    name: replace(FACTS[name], title=title, higher_is_better=False)
    for name, title in (
        ("aesthetic", "Artefacts"), ("oracle_aesthetic", "Artefacts (oracle)"),
        ("geneval", "Is wrong"),
    )
}  # fmt: skip
METRICS = ("aesthetic", "oracle_aesthetic")


def cells(facts):
    """SFT takes away some artefacts and SOAR more; as scores, SOAR is the lower one."""
    members = [base(num_prompts=24, facts=facts)]
    for seed in (0, 1, 2):
        for method, gain in (("sft", -1.2), ("soar", -1.6)):
            members.append(
                Folder(
                    method=method, task="aesthetic", seed=seed, metrics=METRICS, num_prompts=24,
                    gains={"aesthetic": gain, "oracle_aesthetic": gain / 2}, facts=facts,
                )
            )  # fmt: skip
    return members


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The same scores under both directions, as published copies."""
    root = tmp_path_factory.mktemp("store")
    for name, facts in (("lower", LOWER), ("higher", FACTS)):
        publish(write_grid(root / name / "cells", cells(facts)), root / name, grid="grid")
    return root


def numbers(store, name):
    stored, holes = read_cells(store / name / "cells")
    panels, more = build_panels(stored)
    tables = build_tables(stored, panels, [*holes, *more], baseline="sft")
    return panels, tables, build_curves(stored, panels, tables)


@pytest.mark.parametrize(
    ("name", "soar", "base"), [("lower", "better", "worse"), ("higher", "worse", "better")]
)
def test_a_report_says_better_of_less(store, tmp_path, name, soar, base):
    report = build_report(store / name / "cells", tmp_path, grid="grid", formats=("png",))
    lines = csv.DictReader(io.StringIO((tmp_path / "grid" / "table.csv").read_text()))
    verdicts = {(row["method"], row["metric"]): row["verdict"] for row in lines}
    assert verdicts["soar", "aesthetic"] == soar
    assert verdicts["base", "aesthetic"] == base
    (finding,) = [text for text in report.tables[0].findings() if text.startswith("SOAR")]
    title = "Artefacts" if name == "lower" else "Aesthetic"
    assert f"SOAR against SFT, {title}: {soar}, -" in finding


def test_methods_at_equal_cost_are_judged_alike(store):
    for name, expected in (("lower", "better"), ("higher", "worse")):
        panels, tables, points = numbers(store, name)
        (matched, *_) = matched_tables(tables, panels, points, "images_seen")
        row = next(row for row in matched.table.rows if row.method == "soar")
        assert str(row.comparisons["aesthetic"].verdict) == expected


def test_a_threshold_is_reached_from_above(store):
    panels, tables, points = numbers(store, "lower")
    sft, soar = crossings(tables, panels, points, {})
    assert sft.needed["step"] == 150
    assert 50 <= soar.between["step"][0] < soar.between["step"][1] <= 150
    assert soar.share == 1.0
    # Of a score the same curve begins above the threshold, and is there before it has trained.
    panels, tables, points = numbers(store, "higher")
    assert crossings(tables, panels, points, {})[1].needed["step"] == 0


def test_the_best_checkpoint_is_the_lowest(store):
    assert marked_steps("best:aesthetic", numbers(store, "lower")[0], "aesthetic")["soar"] == 150
    assert marked_steps("best:aesthetic", numbers(store, "higher")[0], "aesthetic")["soar"] == 50


def test_gains_on_score_and_oracle_count_towards_the_better(store):
    [lower], [higher] = (
        measure_gaming(numbers(store, name)[0], {}, "sft") for name in ("lower", "higher")
    )
    last = lower.points[-1]
    assert (last.method, last.step) == ("soar", 150)
    assert last.proxy_gain.estimate > last.true_gain.estimate > 0
    for one, other in zip(lower.points, higher.points, strict=True):
        for gain in ("proxy_gain", "true_gain"):
            turned = -getattr(other, gain).estimate
            assert getattr(one, gain).estimate == pytest.approx(turned)
        # Two scores that are both turned round rank the images as before.
        assert one.correlation.estimate == pytest.approx(other.correlation.estimate)


def answer(*words):
    stream = io.StringIO()
    request = read(CompareOptions, words[2:])
    assert compare(*words[:2], *request, as_json=True, console=Console(file=stream)) == 0
    return json.loads(stream.getvalue())["metrics"][0]


def test_compare_of_methods_and_of_cells(store):
    for name, expected in (("lower", "better"), ("higher", "worse")):
        where = f"output_dir={store / name}"
        ids = [Folder(method=method, task="aesthetic").cell_id for method in ("soar", "sft")]
        for pair in (("soar", "sft"), ids):
            stated = answer(*pair, where)
            assert stated["verdict"].endswith(expected)
            assert stated["verdict"].startswith("this checkpoint") == (pair == ids)
            chance = stated["probability_of_improvement"]["estimate"]
            assert (chance > 0.5) == (name == "lower")


def test_compare_of_folders_takes_zero_as_right(tmp_path):
    """Of 24 prompts with two images, the first is wrong on 12 images fewer."""
    wrong = np.tile([1.0, 0.0], 24)
    fewer = wrong.copy()
    fewer[:24:2] = 0.0
    for name, values in (("one", fewer), ("other", wrong)):
        write_scored(tmp_path / name, "geneval", values, facts=LOWER)
    stated = answer(str(tmp_path / "one"), str(tmp_path / "other"))
    assert stated["verdict"] == "this checkpoint is better"
    assert stated["probability_of_improvement"]["estimate"] == pytest.approx(0.5 + 12 / 48 / 2)
    assert (stated["mcnemar"]["only_first"], stated["mcnemar"]["only_second"]) == (12, 0)
