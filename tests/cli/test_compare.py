"""``compare``: methods of a grid, cells, and folders of scores."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from soarbench.cli.app import main
from soarbench.cli.compare import CompareOptions, compare
from soarbench.cli.words import read
from soarbench.common.errors import UserError
from soarbench.report.numbers.names import BASE
from soarbench.report.numbers.tuning import unlike_settings
from tests.report.folders import (
    Folder,
    base,
    build_report,
    publish,
    read_cells,
    write_cell,
    write_grid,
    write_scored,
)


def go(first: str, second: str, *words: str, as_json: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=80)
    request = read(CompareOptions, words)
    assert compare(first, second, *request, as_json=as_json, console=console) == 0
    return stream.getvalue()


def cells(seeds: tuple[int, ...] = (0, 1, 2), **changes: object) -> list[Folder]:
    members = [base(num_prompts=24)]
    for seed in seeds:
        for method, gain in (("sft", 0.5), ("soar", 1.0)):
            for task, metrics in (("aesthetic", ("aesthetic",)), ("general", ("geneval", "ocr"))):
                members.append(
                    Folder(
                        method=method, task=task, seed=seed, metrics=metrics, num_prompts=24,
                        final_metric=metrics[0], gains=dict.fromkeys(metrics, gain), **changes,
                    )
                )  # fmt: skip
    return members


#: What stands behind scores, as a run keeps it; ``score`` does not know how images were made.
DRAWN = {"evaluator_version": "1", "prompts": "abc", "seed_rule": "by prompt", "shift": 3.0}


def judged_alike(grid: Path) -> None:
    """Give the cells of a grid protocols that say who judged and how images were made."""
    for path in grid.glob("cells/*/protocols.json"):
        stored = json.loads(path.read_text())
        for key, facts in stored.items():
            facts |= {**DRAWN, "evaluator": key.partition(".")[2]}
        path.write_text(json.dumps(stored))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export; ``cells`` beside it holds what it was made from."""
    root = tmp_path_factory.mktemp("store")
    grid = write_grid(root / "cells", cells())
    judged_alike(grid)
    publish(grid, root)
    return root


def test_two_methods_over_all_their_seeds(store: Path) -> None:
    text = go("soar", "sft", "task=aesthetic", f"output_dir={store}")
    assert "A: SOAR\nB: SFT" in text
    assert "SOAR against SFT, Aesthetic: better, +" in text
    assert "3 training seeds" in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text


def test_what_differs_in_settings_stands_beside_the_names(tmp_path: Path) -> None:
    grid = write_grid(tmp_path / "cells", cells(seeds=(0,)))
    own = {"soar": (0.1234567, {"learning_rate": 1e-5}), "sft": (1.0, None)}
    for path in grid.glob("cells/*/config.json"):
        values = json.loads(path.read_text())
        weight, optim = own.get(values["method"], (None, None))
        values["config"] |= {"method": {"aux_weight": weight, "points": 6}, "optim": optim}
        path.write_text(json.dumps(values))
    publish(grid, tmp_path)
    words = ("task=aesthetic", f"output_dir={tmp_path}")
    head, _, _ = go("soar", "sft", *words).partition("task aesthetic")
    assert " ".join(head.split()) == (
        "A: SOAR (method.aux_weight=0.1235 optim.learning_rate=1e-05) "
        "B: SFT (method.aux_weight=1 optim.learning_rate=null)"
    )
    answer = json.loads(go("soar", "sft", *words, as_json=True))["settings"]
    assert answer[0]["method.aux_weight"] == 0.1234567
    # Of unlike methods, whose own settings all differ, what both can set.
    soar, sft = {"method": {"aux_weight": 1}, "ema": 1}, {"method": {"num_points": 1}, "ema": 2}
    assert unlike_settings(soar, sft) == ({"ema": 1}, {"ema": 2})
    stages = [{"parent": {"method": {"aux_weight": one}}} for one in (1, 2)]
    assert unlike_settings(*stages)[1] == {"parent.method.aux_weight": 2}
    # The name of a method says that it has a first stage; what that was made with is none of it.
    assert unlike_settings({"ema": 1, "parent": {"ema": 3}}, {"ema": 2}) == ({"ema": 1}, {"ema": 2})


def test_numbers_are_those_of_the_report(store: Path, tmp_path: Path) -> None:
    answer = json.loads(
        go("soar", "sft", "task=aesthetic", f"output_dir={store}", as_json=True)
    )["metrics"][0]  # fmt: skip
    report = build_report(store / "cells", tmp_path, grid="reward_specific")
    row = next(row for row in report.tables[0].rows if row.method == "soar")
    # The store is an export, whose scores have six digits: of two that are near 7 the difference
    # has five.
    difference = vars(row.comparisons["aesthetic"].difference)
    assert answer["difference"] == pytest.approx(difference, abs=1e-5)
    first = row.estimates["aesthetic"].interval.estimate
    assert answer["first"] == pytest.approx(first, abs=1e-5)
    assert answer["p_value"] == pytest.approx(row.comparisons["aesthetic"].p_value, rel=1e-3)
    assert answer["seeds"] == [0, 1, 2]
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
    pair = [Folder(method=name, task="general").cell_id for name in ("soar", "sft")]
    text = go(*pair, f"output_dir={store}")
    assert "GenEval: A alone is right on" in text
    assert "OCR: A alone" not in text
    answer = json.loads(go(*pair, f"output_dir={store}", as_json=True))
    assert [one["metric"] for one in answer["metrics"]] == ["geneval", "ocr"]
    assert answer["metrics"][0]["mcnemar"]["p_value"] <= 1
    assert answer["metrics"][1]["mcnemar"] is None


def test_seeds_are_no_independent_images_for_mcnemar(store: Path) -> None:
    words = ("soar", "sft", "task=general", f"output_dir={store}")
    answer = json.loads(go(*words, as_json=True))["metrics"]
    assert [one["mcnemar"] for one in answer] == [None, None]


def test_the_deciding_metric_decides_unless_another_is_asked_for(store: Path) -> None:
    words = ("soar", "sft", "task=general", f"output_dir={store}")
    both = json.loads(go(*words, as_json=True))["metrics"]
    assert both[1]["metric"] == "ocr"
    assert both[1]["verdict"] == "exploratory"
    assert both[1]["adjusted_p_value"] is None
    assert both[0]["verdict"] != "exploratory"
    assert both[0]["adjusted_p_value"] == both[0]["p_value"]
    (asked,) = json.loads(go(*words, "metric=ocr", as_json=True))["metrics"]
    assert asked["verdict"] == "better"
    text = " ".join(go(*words).split())
    assert "Decided: GenEval, as asked." in text
    assert "not picking this pair after a look at others" in text


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


def test_a_cell_of_several_grids_is_asked_for_by_one(store: Path, tmp_path: Path) -> None:
    """Each may judge the same weights on prompts of its own."""
    publish(store / "cells", tmp_path)
    publish(store / "cells", tmp_path, grid="main_table")
    one, other = (Folder(method=name, task="general").cell_id for name in ("soar", "sft"))
    here = f"output_dir={tmp_path}"
    with pytest.raises(UserError, match="is in 2 grids; choose one: grid=main_table, grid=reward"):
        go(one, other, here)
    assert go(one, other, "grid=main_table", here) == go(one, other, f"output_dir={store}")
    # An id is one, and no pattern of several.
    with pytest.raises(UserError, match="no cell id and no folder of scores"):
        go(f"{one[:-1]}*", other, f"output_dir={store}")


def test_a_cell_at_a_step(store: Path) -> None:
    one, other = (Folder(method=name, task="general").cell_id for name in ("soar", "sft"))
    last = json.loads(go(one, other, f"output_dir={store}", as_json=True))["metrics"]
    early = json.loads(go(f"{one}@50", f"{other}@50", f"output_dir={store}", as_json=True))
    also = json.loads(go(one, other, "step=50", f"output_dir={store}", as_json=True))
    assert early["metrics"] == also["metrics"]
    assert also["scope"] == f"{one} and {other} after 50 steps"
    mixed = json.loads(go(f"{one}@50", other, "step=100", f"output_dir={store}", as_json=True))
    assert mixed["scope"] == f"{other} after 100 steps"
    assert early["metrics"][0]["difference"] != last[0]["difference"]


def test_a_method_stands_beside_a_folder_with_all_its_seeds(store: Path, tmp_path: Path) -> None:
    """SOAR's OCR against images of anybody's whose score is 0.1 on every one of them."""
    scored = write_scored(tmp_path / "scored", "ocr", np.full(48, 0.1))
    words = (f"output_dir={store}", "task=general")
    answer = json.loads(go("soar", str(scored), *words, as_json=True))["metrics"]
    assert [one["metric"] for one in answer] == ["ocr"]
    assert answer[0]["seeds"] == [0, 1, 2]
    values = [
        next(
            one for one in cell.scores() if (one.evaluator, one.step) == ("ocr", 150)
        ).values.mean()
        for cell in read_cells(store / "cells")[0]
        if (cell.method, cell.task) == ("soar", "general")
    ]
    assert answer[0]["first"] == pytest.approx(np.mean(values))
    assert answer[0]["second"] == pytest.approx(0.1)
    back = json.loads(go(str(scored), "soar", *words, as_json=True))["metrics"][0]
    assert back["difference"]["estimate"] == pytest.approx(-answer[0]["difference"]["estimate"])
    assert "3 training seeds" in go("soar", str(scored), *words)


def test_any_mixture_can_be_compared(store: Path, tmp_path: Path) -> None:
    scored = str(write_scored(tmp_path / "scored", "ocr", np.full(48, 0.1)))
    cell_id = Folder(method="sft", task="general", seed=1).cell_id
    words = (f"output_dir={store}", "task=general")
    for first, second, seeds in (
        (cell_id, scored, [0]),
        (f"{cell_id}@100", scored, [0]),
        # What is particular to one training would be in the difference to every seed.
        ("soar", cell_id, [1]),
        (cell_id, "soar", [1]),
        (BASE, scored, [0]),
        (BASE, cell_id, [0]),
    ):
        answer = json.loads(go(first, second, *words, as_json=True))
        assert (answer["first"], answer["second"]) == (first, second)
        (ocr,) = [one for one in answer["metrics"] if one["metric"] == "ocr"]
        assert ocr["seeds"] == seeds, (first, second)
        assert ocr["first"] != ocr["second"]


def test_of_a_folder_only_judge_and_prompts_must_agree(store: Path, tmp_path: Path) -> None:
    """How its images were made is nobody's to say; what was asked for and who judged is."""
    words = (f"output_dir={store}", "task=general")
    values = np.full(48, 0.1)
    other = write_scored(tmp_path / "other", "ocr", values, evaluator_version="2")
    with pytest.raises(UserError, match=r'evaluator_version: "1" against "2"') as caught:
        go("soar", str(other), *words)
    assert "\n" not in str(caught.value)
    texts = write_scored(tmp_path / "texts", "ocr", values, prompts="def")
    with pytest.raises(UserError, match='prompts: "abc" against "def"'):
        go("soar", str(texts), *words)


def test_folders_of_scores_by_hand(tmp_path: Path) -> None:
    """24 prompts with two images; A is right on 12 images more than B."""
    right = np.tile([1.0, 0.0], 24)
    more = right.copy()
    more[1:24:2] = 1.0
    one, other = (
        write_scored(tmp_path / name, "geneval", values)
        for name, values in (("one", more), ("other", right))
    )
    answer = json.loads(go(str(one), str(other), as_json=True))["metrics"][0]
    assert answer["first"] == pytest.approx(0.75)
    assert answer["second"] == pytest.approx(0.5)
    assert answer["difference"]["estimate"] == pytest.approx(0.25)
    assert (answer["mcnemar"]["only_first"], answer["mcnemar"]["only_second"]) == (12, 0)
    assert answer["mcnemar"]["p_value"] == pytest.approx(2 / 2**12)
    assert answer["probability_of_improvement"]["estimate"] == pytest.approx(0.5 + 12 / 48 / 2)
    assert answer["verdict"] == "this checkpoint is better"


def test_a_margin_is_of_the_metric_that_it_names_where_several_decide(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    right, similarity = rng.random(120) > 0.4, rng.normal(0.28, 0.03, 120)
    other_right, more = right.copy(), similarity + rng.normal(0.0, 0.004, 120)
    other_right[::8] ^= True
    for name, values in (("one", (right, similarity)), ("other", (other_right, more))):
        judges: dict[str, object] = {}
        for judge, scores in zip(("geneval", "clipscore"), values, strict=True):
            folder = write_scored(tmp_path / name, judge, scores)
            judges |= json.loads((folder / "summary.json").read_text())["judges"]
        (tmp_path / name / "summary.json").write_text(json.dumps({"judges": judges}))
    # No folder says which of its judges decides, so that both do, each in its own unit.
    words = (str(tmp_path / "one"), str(tmp_path / "other"), "detect=geneval:0.01")
    for margin, equivalent in (
        ("geneval:0.2", ["geneval"]),
        ("clipscore:0.01", ["clipscore"]),
        ("[geneval:0.2,clipscore:0.01]", ["geneval", "clipscore"]),
    ):
        found = json.loads(go(*words, f"margin={margin}", as_json=True))["metrics"]
        assert [one["metric"] for one in found if "equivalent" in one["verdict"]] == equivalent
        assert [one["goal"] for one in found] == [0.01, None]
    text = " ".join(go(*words, "margin=clipscore:0.01").split())
    assert "Equivalent in CLIPScore means" in text
    assert "Equivalent in GenEval means" not in text
    with pytest.raises(UserError, match="margin=ocr: decides nothing here"):
        go(*words, "margin=ocr:0.1")


def test_images_without_a_score_are_left_out_of_both(tmp_path: Path) -> None:
    values = np.arange(48) / 48
    lost = values + 0.1
    lost[:2] = np.nan
    one = write_scored(tmp_path / "one", "clipscore", lost)
    other = write_scored(tmp_path / "other", "clipscore", values)
    answer = json.loads(go(str(one), str(other), as_json=True))["metrics"][0]
    assert answer["num_unscored"] == 2
    assert answer["first"] - answer["second"] == pytest.approx(0.1)
    assert "2 images are left out" in " ".join(go(str(one), str(other)).split())
    nothing = write_scored(tmp_path / "nothing", "clipscore", np.full(48, np.nan))
    with pytest.raises(UserError, match=r"clipscore of .*; metric=NAME compares by another one"):
        go(str(nothing), str(other))


@pytest.mark.parametrize("command_line", [True, False])
def test_unlike_protocols_are_refused_in_one_line_that_names_the_field(
    command_line: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.arange(48) / 48
    one = write_scored(tmp_path / "one", "clipscore", values)
    other = write_scored(tmp_path / "other", "clipscore", values, evaluator_version="2")
    if command_line:
        assert main(["compare", str(one), str(other)]) == 2
        text = capsys.readouterr().err
        assert text.count("\n") == 1
    else:
        with pytest.raises(UserError) as caught:
            go(str(one), str(other))
        text = str(caught.value)
    assert 'evaluator_version: "1" against "2"' in text


def test_folders_of_unlike_prompts_are_refused(tmp_path: Path) -> None:
    values = np.arange(48) / 48
    one = write_scored(tmp_path / "one", "clipscore", values)
    other = write_scored(tmp_path / "other", "clipscore", values, prompts="def")
    with pytest.raises(UserError, match='prompts: "abc" against "def"'):
        go(str(one), str(other))


def test_unlike_protocols_of_methods_name_the_field(tmp_path: Path) -> None:
    grid = write_grid(tmp_path / "grid", cells((0,)))
    judged_alike(grid)
    for folder in grid.glob("cells/soar-aesthetic-*"):
        text = (folder / "protocols.json").read_text()
        assert '"shift": 3.0' in text
        (folder / "protocols.json").write_text(text.replace('"shift": 3.0', '"shift": 1.0'))
    publish(grid, tmp_path / "out")
    with pytest.raises(UserError, match=r"shift: (1\.0 against 3\.0|3\.0 against 1\.0)"):
        go("soar", "sft", "task=aesthetic", f"output_dir={tmp_path / 'out'}")
    with pytest.raises(UserError, match=r"shift: 1\.0 against 3\.0"):
        go(
            *(Folder(method=name, task="aesthetic").cell_id for name in ("soar", "sft")),
            f"output_dir={tmp_path / 'out'}",
        )


def test_what_cannot_be_compared_is_one_line_with_a_remedy(store: Path, tmp_path: Path) -> None:
    here = f"output_dir={store}"
    values = np.arange(48) / 48
    scored = write_scored(tmp_path / "one", "clipscore", values)
    fewer = write_scored(tmp_path / "fewer", "clipscore", values[:40])
    aesthetic = write_scored(tmp_path / "aesthetic", "aesthetic", values)
    (tmp_path / "empty").mkdir()
    (scored / "clipscore" / "summary.json").write_text('{"evaluator": "clipscore"}')
    cell_id = Folder(method="sft", task="general").cell_id
    for first, second, words, message in (
        (f"{scored}/clipscore", str(fewer), [], f"holds the scores of one judge; name {scored}$"),
        ("sft", "sft", [here], "cannot be compared with itself"),
        (str(scored), f"{scored}/", [], "cannot be compared with itself"),
        ("soar", "sft", [here], "need one task: task=aesthetic, task=general"),
        ("soar", "sfft", [here], "did you mean 'sft'"),
        ("soar", "sft", [here, "task=aesthetic", "metric=ocr"], "metric='ocr' was not measured"),
        ("soar", "sft", [here, "task=aesthetic", "step=7"], "was evaluated at 50, 100, 150"),
        ("soar", "sft", [here, "step=x"], "must be an integer"),
        (f"{cell_id}@7", "sft", [here, "task=general"], "was evaluated at 50, 100, 150"),
        (f"{cell_id}@last", "sft", [here, "task=general"], "must be a number of optimizer steps"),
        (cell_id, "sft", [here], "need one task: task=aesthetic, task=general"),
        ("soar", cell_id, [here, "task=general", "seeds=[1]"], "has seeds 1, and the cell has 0"),
        (str(scored), "sft", [here, "task=general"], "have no measurement in common"),
        (str(scored), str(aesthetic), [], "have no measurement in common"),
        (str(scored), str(fewer), [], "48 images in .* and 40 in"),
        (str(scored), str(tmp_path / "empty"), [], "holds no finished scores"),
        (str(scored), str(tmp_path / "absent"), [], "absent: no such folder"),
        (
            cell_id,
            str(scored),
            [here, "method.aux_wieght=3"],
            "aux_wieght=3: says nothing of cells",
        ),
        (cell_id, str(scored), [here, "budget=quick"], "budget=quick: says nothing of cells"),
        (f"{cell_id}@50", str(scored), [here, "step=7"], "step=7: .*@50 and .* their own step"),
        ("soar", here, [], "is a setting, where a name is missing; name A and B"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            go(first, second, *words)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("clipscore/rows.parquet", b"PAR1 no", r"rows\.parquet is damaged .* makes it again"),
        ("clipscore/rows.parquet", None, r"rows\.parquet is missing; the command "),
        ("summary.json", b'{"judges": ', r"summary\.json is damaged"),
        ("summary.json", b'{"evaluator": "clipscore"}', "names no judges: another version"),
    ],
)
def test_damaged_and_missing_scores_are_named(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    one, other = (
        write_scored(tmp_path / folder, "clipscore", np.arange(8) / 8) for folder in ("a", "b")
    )
    if content is None:
        (other / name).unlink()
    else:
        (other / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        go(str(one), str(other))
    assert "\n" not in str(caught.value)


def test_of_a_folder_the_part_that_was_asked_for_is_compared(tmp_path: Path) -> None:
    """What ``evaluate`` points at may hold more images than it drew: others asked for more."""
    values = np.tile([0.5, 0.1], 12)
    one, other = (write_scored(tmp_path / name, "clipscore", values) for name in ("a", "b"))
    path = one / "summary.json"
    stored = json.loads(path.read_text())
    extent = {"max_prompts": None, "images_per_prompt": 1}
    stored["judges"]["clipscore"]["extent"] = extent
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"12 images in .* and 24 in"):
        go(str(one), str(other))


def test_a_tie_says_what_would_decide_it(tmp_path: Path) -> None:
    members = [
        Folder(method=name, task="aesthetic", seed=seed, num_prompts=24, metrics=("aesthetic",))
        for name in ("sft", "soar")
        for seed in (0, 1, 2)
    ]
    publish(write_grid(tmp_path / "cells", members), tmp_path)
    text = " ".join(go("soar", "sft", f"output_dir={tmp_path}").split())
    assert "not distinguishable" in text
    assert "this design sees" in text


def test_a_judge_of_several_suites_says_which(tmp_path: Path) -> None:
    ids = []
    for grid, seed in (("first", 0), ("second", 1)):
        # Of the same number of prompts, the untrained model of another grid.
        cell = base(num_prompts=24, seed=seed, metrics=("ocr",))
        folder = write_cell(tmp_path / "cells" / grid, cell)
        scores = pq.read_table(folder / "scores.parquet")
        place = scores.column_names.index("suite")
        again = scores.set_column(place, "suite", pa.array(["ocr_more"] * scores.num_rows))
        pq.write_table(pa.concat_tables([scores, again]), folder / "scores.parquet")
        protocols = json.loads((folder / "protocols.json").read_text())
        both = {**protocols, "ocr_more.ocr": protocols["ocr.ocr"]}
        (folder / "protocols.json").write_text(json.dumps(both))
        publish(tmp_path / "cells" / grid, tmp_path, grid)
        ids.append(cell.cell_id)
    text = " ".join(go(*ids, f"output_dir={tmp_path}").split())
    assert "Decided: OCR on ocr, OCR on ocr_more, as asked." in text
    assert f"{ids[0]} against {ids[1]}, OCR on ocr: " in text
