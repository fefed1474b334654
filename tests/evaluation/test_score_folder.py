"""Images of any model, scored from disk."""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluators import samples
from evaluators.base import Evaluator, Sample, Score
from evaluators.geneval.verdict import GenEval
from evaluators.samples import SampleFile
from soarbench.cli.app import main
from soarbench.evaluation.judging import (
    CHUNK,
    USUAL_PIXELS,
    images_at_a_time,
    judge_files,
    summed_up,
)
from soarbench.evaluation.request import ScoreOptions, score_request
from soarbench.evaluation.rows import ScoreRows, score_row
from soarbench.lab.judges import (
    LabDetector,
    LabGenEvalConfig,
    OracleAesthetic,
    geneval_canaries,
)
from soarbench.lab.world.draw import draw_suite
from soarbench.report.numbers.headline import headline
from soarbench.store.judged import ScoresFolder
from tests.fakes import Brightness


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    draw_suite(tmp_path / "drawn", images_per_prompt=1)
    return tmp_path / "drawn"


def scored(images: Path, output: Path, *more: str) -> int:
    return main(["score", "suite=lab_geneval", f"images={images}", f"output={output}", *more])


def rows_of(folder: Path) -> list[dict[str, object]]:
    return ScoreRows(folder).read()


def test_scores_every_image_and_sums_up(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scored(drawn, tmp_path / "out") == 0
    rows = rows_of(tmp_path / "out/geneval")
    assert [row["prompt_id"] for row in rows] == [f"lab_geneval/{i:05d}" for i in range(204)]
    assert len({row["fingerprint"] for row in rows}) == 1
    verdicts = [json.loads(str(row["details"])) for row in rows]
    assert {"correct", "strict_correct", "strict_score", "reason"} <= verdicts[0].keys()
    summary = json.loads((tmp_path / "out/summary.json").read_text())["judges"]["geneval"]
    share = sum(verdict["correct"] for verdict in verdicts) / 204
    assert summary["numbers"]["images_correct"] == pytest.approx(share)
    assert 0.6 < share < 1.0
    assert summary["title"] == "GenEval"
    assert summary["is_macro_mean"] is True
    # Of the macro mean, by hand: prompts of a task vary, and the six tasks weigh alike.
    interval = summary["interval"]
    by_task: dict[str, list[float]] = {}
    for verdict in verdicts:
        by_task.setdefault(verdict["tag"], []).append(float(verdict["correct"]))
    variance = sum(np.var(own, ddof=1) / len(own) for own in by_task.values()) / len(by_task) ** 2
    half_width = (interval["high"] - interval["low"]) / 2
    # Student's t of the tasks together has between 33 and 198 degrees of freedom.
    assert 1.97 < half_width / variance**0.5 < 2.4
    assert interval["measure"] == next(iter(summary["numbers"]))
    assert (interval["num_prompts"], interval["level"]) == (204, 0.95)
    printed = capsys.readouterr().out
    assert f"[{interval['low']:.4f}, {interval['high']:.4f}]" in printed
    assert "95 %: for other prompts of the kind" in printed


@pytest.mark.parametrize(
    ("values", "prompts", "message"),
    [
        ((0.5, 0.7, 0.2), (0, 0, 0), "there is one prompt"),
        ((1.0, 1.0, 1.0), (0, 1, 2), "every prompt scored the same"),
        ((0.7, 0.7, 0.7), (0, 1, 2), "every prompt scored the same"),
        ((math.nan,) * 3, (0, 1, 2), "no image has a score"),
        ((0.5, 0.7, 0.4), (0, 1, 1), ""),
    ],
)
def test_an_interval_is_printed_only_where_it_says_something(
    values: tuple[float, ...], prompts: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    rows = ScoresFolder(tmp_path / "brightness")
    judge = Brightness().config
    rows.write_protocol({}, judge.facts())
    samples = [
        Sample(sample_id=f"{n}/{i}", prompt_id=str(n), prompt="p", image=Image.new("RGB", (2, 2)))
        for i, n in enumerate(prompts)
    ]
    rows.rows.append(
        [
            score_row(
                one,
                Score(sample_id=one.sample_id, value=value, reason="x" if value != value else None),
                "f00d",
                {"image_index": i},
            )
            for i, (one, value) in enumerate(zip(samples, values, strict=True))
        ]
    )
    rows.rows.finish([one.sample_id for one in samples])
    mean = float(np.nanmean(values)) if message != "no image has a score" else None
    summary = {"numbers": {"mean": mean}, "scores": "brightness", "suite": "own", "extent": None}
    answer = headline(tmp_path, "brightness", summary)
    assert message in str(answer.get("problem", ""))
    assert ("low" in answer) is (message == "")


def test_an_interrupted_scoring_goes_on_and_ends_equal(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scored(drawn, tmp_path / "whole") == 0
    score, sizes = GenEval.score, []

    def stops(self: GenEval, samples: list) -> list:
        sizes.append(len(samples))
        if sizes.count(32) and len(samples) < 32 and len(samples) > 2:
            raise KeyboardInterrupt
        return score(self, samples)

    monkeypatch.setattr(GenEval, "score", stops)
    assert scored(drawn, tmp_path / "parts") == 130
    # Whole parts of 32, and the last one of 12 not.
    assert len(rows_of(tmp_path / "parts/geneval")) == 192
    partial = ScoreRows(tmp_path / "parts/geneval").partial_dir
    (partial / "00.json").write_text('[{"sample_id": "torn')
    monkeypatch.setattr(GenEval, "score", score)
    assert scored(drawn, tmp_path / "parts") == 0
    assert rows_of(tmp_path / "parts/geneval") == rows_of(tmp_path / "whole/geneval")


@pytest.mark.slow
def test_the_tutorial_works_as_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs/tutorials/your_images.md").read_text()
    section = page.split("## With images and models")[0]
    start = "python -m soarbench "
    commands = [line for line in section.splitlines() if line.startswith(start)]
    assert len(commands) == 3
    monkeypatch.chdir(tmp_path)
    for command in commands:
        assert main(command.removeprefix(start).split()) == 0
    for folder, count in (("scores/lab_geneval/drawn", 408), ("evaluations/lab_geneval/lab", 204)):
        output = tmp_path / "runs" / folder
        scores = json.loads((output / "summary.json").read_text())["judges"]["geneval"]["scores"]
        assert len(rows_of(output / scores)) == count


def test_coverage_bad_images_and_other_requests_are_one_line(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert scored(drawn, output) == 0
    other = tmp_path / "other"
    shutil.copytree(drawn, other)
    # The same images, wherever they lie.
    assert scored(other, output) == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    capsys.readouterr()
    image = other / "00003/samples/0000.png"
    cases = []
    assert scored(other, output, "coverage=found") == 2
    cases.append(("holds scores of another request (unlike in coverage)", capsys.readouterr().err))
    other_image = Image.new("RGB", (64, 64), "red")
    other_image.save(image)
    assert scored(other, output) == 2
    cases.append(("is not the one that was scored", capsys.readouterr().err))
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    assert scored(other, tmp_path / "new") == 2
    cases.append(("cut short", capsys.readouterr().err))
    shutil.rmtree(other / "00003")
    assert scored(other, tmp_path / "new") == 2
    cases.append(("1 missing", capsys.readouterr().err))
    assert scored(tmp_path / "absent", tmp_path / "new") == 2
    cases.append(("no such folder", capsys.readouterr().err))
    for message, text in cases:
        assert message in text
        assert text.count("\n") == 1
    assert not (tmp_path / "new").exists()
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert scored(other, tmp_path / "found", "coverage=found") == 0


def test_scores_lie_below_the_whole_name_of_a_folder_and_a_files_without_its_ending(
    tmp_path: Path,
) -> None:
    listed = tmp_path / "sd3.5.jsonl"
    listed.touch()
    for images, name in ((tmp_path / "sd3.5", "sd3.5"), (listed, "sd3.5")):
        options = ScoreOptions(suite="lab_geneval", images=images)
        assert score_request(options, []).output == Path("runs/scores/lab_geneval") / name


def test_plain_folder_follows_a_prompts_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, prompts = tmp_path / "plain", tmp_path / "prompts.txt"
    folder.mkdir()
    prompts.write_text("a cat\na dog\na cat\n")
    for number in (0, 1, 10):
        Image.new("RGB", (64, 64), "red").save(folder / f"{number}.png")
    words = ["suite=drawbench", f"images={folder}", f"output={tmp_path / 'out'}"]
    words.append("suites.drawbench.judges=oracle_aesthetic")
    assert main(["score", *words]) == 2
    assert "add suites.NAME.prompts=FILE" in capsys.readouterr().err
    assert main(["score", *words, f"suites.drawbench.prompts={prompts}"]) == 0
    assert [row["prompt_id"] for row in rows_of(tmp_path / "out/oracle_aesthetic")] == [
        f"drawbench/{i:05d}" for i in (0, 1, 0)
    ]
    (folder / "1.png").unlink()
    assert main(["score", *words, f"suites.drawbench.prompts={prompts}"]) == 2
    assert "numbers missing: 1" in capsys.readouterr().err


class Watched:
    """Counts decoded images that are alive."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.alive = self.most = self.decoded = 0

    def made(self) -> None:
        with self.lock:
            self.alive += 1
            self.decoded += 1
            self.most = max(self.most, self.alive)

    def gone(self) -> None:
        with self.lock:
            self.alive -= 1


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    counter, load = Watched(), samples.load_image

    def loads(path: Path) -> Image.Image:
        image = load(path)
        counter.made()
        weakref.finalize(image, counter.gone)
        return image

    monkeypatch.setattr(samples, "load_image", loads)
    return counter


def many(tmp_path: Path, count: int) -> list:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "0.png")
    return [
        SampleFile(
            sample_id=str(i), prompt_id="p", prompt="p", path=tmp_path / "0.png", metadata={}
        )
        for i in range(count)
    ]


class Uncounted:
    def advance(self, count: int) -> None: ...

    def skip(self, count: int) -> None: ...


def judged(judge: Evaluator, files: list, folder: Path, at_a_time: int) -> list[dict[str, object]]:
    rows, largest = ScoreRows(folder), CHUNK * USUAL_PIXELS // at_a_time
    judge_files(judge, files, rows, fingerprint="f", largest=largest, progress=Uncounted())
    summed_up(judge, files, rows)
    return rows.read()


class Together(Brightness):
    """An image's score says which images it was judged with."""

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        names = ",".join(sample.sample_id for sample in samples)
        self.num_scored += len(samples)
        return [Score(sample_id=s.sample_id, value=0.0, details={"with": names}) for s in samples]


class Counting(Uncounted):
    def __init__(self) -> None:
        self.done = 0

    def advance(self, count: int) -> None:
        self.done += count

    skip = advance


def share(number: int, files: list, rows: ScoreRows, judge: Together) -> int:
    """Judge every second chunk, four images a chunk; how far the progress came."""
    largest, progress = CHUNK * USUAL_PIXELS // 4, Counting()
    judge_files(
        judge, files, rows, fingerprint="f", largest=largest, progress=progress,
        only=lambda chunk: chunk % 2 == number,
    )  # fmt: skip
    return progress.done


def test_two_that_share_a_judging_make_what_one_makes(tmp_path: Path) -> None:
    files, rows = many(tmp_path, 23), ScoreRows(tmp_path / "shared")
    straight = judged(Together(), files[:6], tmp_path / "one", 4)
    assert judged(Together(), files[:6], rows.root, 4) == straight
    straight = judged(Together(), files, tmp_path / "one", 4)
    judges = Together(), Together(), Together()
    # The second begins last, and sees what the first has done meanwhile.
    assert share(0, files, rows, judges[0]) == 6 + 4 + 4 + 1
    assert len(rows.finished()) == 6
    assert share(1, files, rows, judges[1]) == 4 + 4
    lost = sorted(rows.partial_dir.iterdir())[2]
    lost.write_bytes(lost.read_bytes()[:-9])
    assert [share(number, files, rows, judges[2]) for number in (0, 1)] == [15, 8]
    assert [judge.num_scored for judge in judges[:2]] == [9, 8]
    assert judges[2].num_scored in (1, 4)
    summed_up(judges[0], files, rows)
    assert rows.read() == straight
    assert rows.path.read_bytes() == ScoreRows(tmp_path / "one").path.read_bytes()
    assert not rows.partial_dir.exists()


def test_rows_that_come_while_others_are_put_together_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, rows = many(tmp_path, 8), ScoreRows(tmp_path / "shared")
    judged(Together(), files[:4], rows.root, 4)
    for number in (0, 1):
        share(number, files[:6], rows, Together())

    def another_launch(*given: object) -> None:
        monkeypatch.undo()
        share(0, files, rows, Together())
        pq.write_table(*given)

    monkeypatch.setattr("soarbench.evaluation.rows.pq.write_table", another_launch)
    rows.finish([file.sample_id for file in files[:6]])
    assert len(rows.finished()) == 6
    assert {row["sample_id"] for row in rows.read()} == {file.sample_id for file in files}
    rows.finish([file.sample_id for file in files])
    assert len(rows.finished()) == 8
    assert not rows.partial_dir.exists()


@pytest.mark.parametrize("at_a_time", [4, 32])
def test_memory_does_not_grow_with_the_number_of_images(
    at_a_time: int, tmp_path: Path, watched: Watched
) -> None:
    files = many(tmp_path, 300)
    rows = judged(OracleAesthetic(), files, tmp_path / "rows", at_a_time)
    assert [row["sample_id"] for row in rows] == [file.sample_id for file in files]
    assert watched.decoded == 300
    assert watched.most <= 2 * at_a_time + 1


def test_large_images_are_judged_fewer_at_a_time() -> None:
    assert images_at_a_time(64 * 64) == images_at_a_time(1024 * 1024) == CHUNK == 32
    assert images_at_a_time(2048 * 2048) == 16
    assert images_at_a_time(40_000 * 40_000) == 1


def test_the_next_images_are_decoded_while_a_judge_works(tmp_path: Path, watched: Watched) -> None:
    ahead = []

    class Slow(OracleAesthetic):
        def score(self, samples):
            judged = int(samples[-1].sample_id) + 1
            deadline = time.monotonic() + 120
            while watched.decoded < min(judged + 7, 24) and time.monotonic() < deadline:
                time.sleep(0.01)
            ahead.append(watched.decoded - judged)
            return super().score(samples)

    judged(Slow(), many(tmp_path, 24), tmp_path / "rows", 8)
    assert ahead == [7, 7, 0]


class Halting(Brightness):
    """A server that does not answer about some images, at first."""

    silent: tuple[str, ...] = ("1", "3")

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        self.num_scored += len(samples)
        return [
            Score.unscored(one.sample_id, "no answer in 3 tries: status 503")
            if one.sample_id in self.silent
            else Score(sample_id=one.sample_id, value=float(one.sample_id))
            for one in samples
        ]


def test_images_that_got_no_answer_are_asked_about_again(tmp_path: Path) -> None:
    judge, files, folder = Halting(), many(tmp_path, 5), tmp_path / "rows"
    assert [row["reason"] is None for row in judged(judge, files, folder, 32)] == [
        True, False, True, False, True,
    ]  # fmt: skip
    judge.silent = ("3",)
    values = [row["value"] for row in judged(judge, files, folder, 32)]
    assert judge.num_scored == 7
    assert values[:3] == [0.0, 1.0, 2.0]
    assert math.isnan(values[3])
    judge.silent = ()
    assert [row["value"] for row in judged(judge, files, folder, 32)] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert judged(judge, files, folder, 32)
    assert judge.num_scored == 8


class Blind(GenEval):
    """Fails on every image of a suite that counts objects."""

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        return [
            Score.unscored(one.sample_id, "broken")
            if one.metadata["tag"] == "counting" and one.prompt_id.startswith("lab_geneval/")
            else score
            for one, score in zip(samples, super().score(samples), strict=True)
        ]


def test_a_task_that_lost_all_its_images_leaves_no_mean_over_tasks(
    drawn: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def build(config: LabGenEvalConfig) -> GenEval:
        return Blind(LabDetector(), canaries=geneval_canaries(), config=config)

    monkeypatch.setattr(LabGenEvalConfig, "build", build)
    # Finished, with images that have no score.
    assert scored(drawn, tmp_path / "out") == 3
    summary = json.loads((tmp_path / "out/summary.json").read_text())["judges"]["geneval"]
    numbers = summary["numbers"]
    assert (numbers["overall"], numbers["strict_score"]) == (None, None)
    assert 0.6 < numbers["images_correct"] < 1.0
    assert "no image of task counting could be scored, so there is no overall, " in caplog.text
    assert "stratum" in summary["interval"]["problem"]
    failed = [row for row in rows_of(tmp_path / "out/geneval") if row["reason"]]
    assert {json.loads(str(row["details"]))["tag"] for row in failed} == {"counting"}
