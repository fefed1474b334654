"""GenEval raced against the obvious way: equal verdicts, and what is printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluators.geneval.prompts import CLASS_NAMES, COLORS
from soarbench.benchmarks.judges import draw_scenes, race
from soarbench.cli.app import main
from soarbench.evaluation.judging import decoded


def test_scenes_ask_for_colours_as_often_as_wanted(tmp_path: Path) -> None:
    for name, share, wanted in (("all", 1.0, 20), ("mix", 194 / 553, 7), ("none", 0.0, 0)):
        files = draw_scenes(tmp_path / name, 20, share)
        assert sum(file.metadata["tag"] == "colors" for file in files) == wanted
        clauses = [file.metadata["include"][0] for file in files]
        assert sum("color" in clause for clause in clauses) == wanted
        assert {clause.get("color") for clause in clauses} <= {None, *COLORS}


def test_a_race_takes_the_fastest_round_and_counts_equal_verdicts(tmp_path: Path) -> None:
    files = draw_scenes(tmp_path / "scenes", 4, 1.0)
    calls = []

    def ours(some: list) -> list[tuple[bool, bool, float]]:
        calls.append(("ours", len(some)))
        return [(True, True, 1.0)] * len(some)

    def naive(some: list) -> list[tuple[bool, bool, float]]:
        calls.append(("naive", len(some)))
        return [(True, True, 1.0)] * (len(some) - 1) + [(True, False, 0.5)]

    found = race("colours", files, ours, naive, lambda: None)
    assert (found.num_images, found.num_equal) == (4, 3)
    assert calls == [("ours", 1), ("naive", 1), *[("ours", 4), ("naive", 4)] * 2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sparse", "guessing"])
def test_the_naive_form_gives_the_same_verdicts(kind: str, tmp_path: Path) -> None:
    import torch

    from evaluators.geneval.config import GenEvalConfig
    from evaluators.geneval.mask2former import load_geneval
    from soarbench.benchmarks.naive_geneval import NaiveGenEval
    from soarbench.benchmarks.tiny_detectors import (
        save_clip,
        save_mask2former,
        save_sparse_mask2former,
    )

    sign = CLASS_NAMES.index("stop sign")
    save = save_sparse_mask2former if kind == "sparse" else save_mask2former
    detector, clip = save(tmp_path / "detector", favourite=sign), save_clip(tmp_path / "clip")
    files = draw_scenes(tmp_path / "scenes", 6, 0.7)
    config = GenEvalConfig(detector=detector, color_model=clip, device="cpu", batch_size=4)
    naive = NaiveGenEval(detector, Path(clip), torch.device("cpu"))
    evaluator = load_geneval(config)
    ours = [score for chunk in decoded(evaluator, files) for score in evaluator.score(chunk)]
    for file, score in zip(files, ours, strict=True):
        verdict = naive.verdict(file.path, file.metadata)
        assert verdict.correct == score.details["correct"]
        assert verdict.reason == score.details["reason"]
        assert verdict.strict_score == pytest.approx(score.details["strict_score"])
    assert len({score.details["reason"] for score in ours}) > 2


@pytest.mark.slow
def test_the_bench_prints_both_speeds_their_ratio_and_the_verdicts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["bench", "judges", "num_images=2"]) == 0
    text = capsys.readouterr().out
    assert "tiny random models" in text
    assert text.count("2 of 2") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["num_images=0"], "num_images=0: must be at least 1"),
        (["images=2"], "this is called num_images=... now"),
        (["budget=quick"], "there is no key 'budget' here; did you mean"),
        (["judge.ocr.min_side=64"], "measures judge.geneval alone"),
        (["judge.geneval.dtype=bfloat16"], "the naive form is float32"),
        (["judge.geneval.color_model=/nowhere"], "color_model=/nowhere: no such file or directory"),
    ],
)
def test_misuse_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "judges", *words]) == 2
    text = capsys.readouterr().err
    assert message in text
    assert text.count("\n") == 1
