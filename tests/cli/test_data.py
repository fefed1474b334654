"""``data score``, ``data filter`` and ``data check`` on small sets."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from rich.console import Console

from evaluators.base import Canary, Sample, Score
from soarbench.cli.app import main
from soarbench.common.errors import UserError
from soarbench.data.check import SetCheck, look, pixel_digest
from soarbench.data.config import ImageDataConfig
from soarbench.data.filter_set import filter_set
from soarbench.data.forms import DatasetsDataConfig, JsonlDataConfig, WebDatasetConfig
from soarbench.data.prompts import PromptItem, PromptSuite
from soarbench.evaluation.rows import ScoreRows
from soarbench.jobs import score_set as scoring
from soarbench.jobs.score_set import score_set
from tests.fakes import Brightness, BrightnessConfig
from tests.sets import picture, write_set, write_shards

CONSOLE = Console(file=io.StringIO(), width=200)


class Interrupted(Brightness):
    """Stops like Ctrl-C after some images."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        if self.num_scored >= self.after:
            raise KeyboardInterrupt
        return super().score(samples)


class Backwards(Brightness):
    """Its canary is the wrong way round."""

    def canaries(self) -> Sequence[Canary]:
        def sample(name: str, grey: int) -> Sample:
            image = Image.new("RGB", (8, 8), (grey, grey, grey))
            return Sample(sample_id=name, prompt_id=name, prompt=name, image=image)

        return (Canary(good=sample("dark", 0), bad=sample("light", 255)),)


def known(config: ImageDataConfig) -> ImageDataConfig:
    found = config.with_content()
    assert isinstance(found, ImageDataConfig)
    return found


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def score(config: ImageDataConfig, output: Path, judge: Brightness | None = None) -> None:
    class Config(BrightnessConfig):
        def build(self) -> Brightness:
            return judge or Brightness()

    score_set(known(config), "brightness", Config(), output, CONSOLE)


def kept(output: Path) -> ScoreRows:
    """What was judged so far."""
    return ScoreRows(output.with_name(f"{output.name}.scores"))


def test_rows_get_the_judges_score_beside_their_own(tmp_path: Path) -> None:
    score(JsonlDataConfig(path=str(write_set(tmp_path))), tmp_path / "scored.jsonl")
    found = lines(tmp_path / "scored.jsonl")
    original = lines(tmp_path / "rows.jsonl")
    for number, (row, own) in enumerate(zip(found, original, strict=True)):
        mean = float(np.asarray(picture(number)).mean())
        assert row.pop("scores") == {"beauty": float(number), "brightness": pytest.approx(mean)}
        assert (row["image"], row["caption"]) == (own["image"], own["caption"])


def test_interrupted_scoring_goes_on_and_ends_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 2)
    config = JsonlDataConfig(path=str(write_set(tmp_path)))
    score(config, tmp_path / "straight.jsonl")
    output = tmp_path / "cut.jsonl"
    with pytest.raises(KeyboardInterrupt):
        score(config, output, Interrupted(after=4))
    assert not output.exists()
    assert kept(output).count() == 4
    (kept(output).partial_dir / "00.json").write_bytes(b'[{"torn')
    judge = Brightness()
    score(config, output, judge)
    assert judge.num_scored == 2
    assert output.read_text() == (tmp_path / "straight.jsonl").read_text()
    assert kept(output).read() == kept(tmp_path / "straight.jsonl").read()
    score(config, output, judge)
    assert judge.num_scored == 2


def test_another_request_writes_nothing_over(tmp_path: Path) -> None:
    config = JsonlDataConfig(path=str(write_set(tmp_path)))
    score(config, tmp_path / "scored.jsonl")
    write_set(tmp_path, count=5)
    with pytest.raises(UserError, match="holds scores of another set or judge"):
        score(config, tmp_path / "scored.jsonl")
    (tmp_path / "mine.jsonl").write_text("precious")
    with pytest.raises(UserError, match="exists already; choose another output"):
        score(config, tmp_path / "mine.jsonl")
    assert (tmp_path / "mine.jsonl").read_text() == "precious"


def test_a_set_that_was_refused_is_corrected_under_the_same_output(tmp_path: Path) -> None:
    path, output = write_set(tmp_path, changes={1: {"caption": ""}}), tmp_path / "scored.jsonl"
    with pytest.raises(UserError, match=r"line 2 .*is empty; write one or remove"):
        score(JsonlDataConfig(path=str(path)), output)
    write_set(tmp_path)
    score(JsonlDataConfig(path=str(path)), output)
    assert len(lines(output)) == 6


def test_another_column_of_the_same_files_is_another_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    texts = {"text": ["a", "b"], "other": ["c", "d"]}
    stream = io.BytesIO()
    picture(0).save(stream, "PNG")
    images = [{"bytes": stream.getvalue(), "path": None}] * 2
    Dataset.from_dict({"image": images, **texts}).to_parquet(tmp_path / "set" / "train.parquet")
    config = DatasetsDataConfig(path=str(tmp_path / "set"))
    score(config, tmp_path / "scored.jsonl")
    assert [row["caption"] for row in lines(tmp_path / "scored.jsonl")] == ["a", "b"]
    # Which part is trained on has no say in what is scored.
    score(replace(config, thresholds={"brightness": 1.0}), tmp_path / "scored.jsonl")
    with pytest.raises(UserError, match="holds scores of another set or judge"):
        score(replace(config, caption_column="other"), tmp_path / "scored.jsonl")


def test_shards_are_scored_into_a_file_that_training_takes(tmp_path: Path) -> None:
    config = WebDatasetConfig(path=str(write_shards(tmp_path / "set")))
    score(config, tmp_path / "scored.jsonl")
    filter_set(tmp_path / "scored.jsonl", tmp_path / "kept.jsonl", {"brightness": 30.0}, CONSOLE)
    scored = WebDatasetConfig(path=config.path, scores=str(tmp_path / "kept.jsonl"))
    from soarbench.data.sources.source import records_of

    expected = [n for n in range(6) if np.asarray(picture(n)).mean() >= 30]
    assert [r.caption for r in records_of(known(scored))] == [
        f"a drawing number {number}" for number in expected
    ]


def test_unreadable_images_have_no_score_and_are_listed(tmp_path: Path) -> None:
    path = str(write_set(tmp_path))
    (tmp_path / "images/1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"1 images cannot be used.*images/1\.png"):
        score(JsonlDataConfig(path=path), tmp_path / "strict.jsonl")
    score(JsonlDataConfig(path=path, max_unreadable=1), tmp_path / "scored.jsonl")
    found = lines(tmp_path / "scored.jsonl")
    assert found[1]["scores"] == {"beauty": 1.0, "brightness": None}
    (listed,) = lines(tmp_path / "scored.unusable.jsonl")
    assert "images/1.png" in str(listed["reason"])
    filter_set(tmp_path / "scored.jsonl", tmp_path / "kept.jsonl", {"brightness": 0.0}, CONSOLE)
    assert len(lines(tmp_path / "kept.jsonl")) == 5


def test_a_judge_that_fails_its_canary_scores_nothing(tmp_path: Path) -> None:
    path = str(write_set(tmp_path))
    with pytest.raises(UserError, match="does not work here"):
        score(JsonlDataConfig(path=path), tmp_path / "scored.jsonl", Backwards())
    assert kept(tmp_path / "scored.jsonl").count() == 0
    # Nothing is claimed: a judge that works, whatever its settings, takes the output.
    score(JsonlDataConfig(path=path), tmp_path / "scored.jsonl")


def test_missing_weights_are_named_by_their_whole_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"data.path={write_set(tmp_path)}", "judge=clipscore", f"output={tmp_path / 'out'}"]
    assert main(["data", "score", *words, "judge.clipscore.weights=/no"]) == 2
    assert "error: judge.clipscore.weights=/no: " in capsys.readouterr().err


def test_filter_keeps_the_rows_at_and_above(tmp_path: Path) -> None:
    source = write_set(tmp_path)
    filter_set(source, tmp_path / "kept.jsonl", {"beauty": 3.0}, CONSOLE)
    assert (tmp_path / "kept.jsonl").read_text().splitlines() == source.read_text().splitlines()[3:]
    with pytest.raises(UserError, match=r"none of 6 rows reach beauty>=6\.8; lower it"):
        filter_set(source, tmp_path / "none.jsonl", {"beauty": 6.8}, CONSOLE)
    with pytest.raises(UserError, match="line 1: no score 'grace'; add it with `data score"):
        filter_set(source, tmp_path / "none.jsonl", {"grace": 1.0}, CONSOLE)
    assert not list(tmp_path.glob("*none*"))


def test_filter_says_where_the_images_of_rows_in_another_folder_lie(tmp_path: Path) -> None:
    source, said = write_set(tmp_path), io.StringIO()
    console = Console(file=said, width=80)
    filter_set(source, tmp_path / "kept.jsonl", {"beauty": 3.0}, console)
    assert "image_dir" not in said.getvalue()
    filter_set(source, tmp_path / "there/kept.jsonl", {"beauty": 3.0}, console)
    assert f"train on it with data.image_dir={tmp_path}," in said.getvalue()


def test_half_a_character_in_a_row_is_kept_as_it_is(tmp_path: Path) -> None:
    """Others keep their letters; such a row is in no file of UTF-8 unless it is escaped."""
    source = write_set(tmp_path, changes={0: {"note": "\ud83d"}, 1: {"note": "grün"}})
    filter_set(source, tmp_path / "kept.jsonl", {"beauty": 0.0}, CONSOLE)
    assert [row.get("note") for row in lines(tmp_path / "kept.jsonl")][:2] == ["\ud83d", "grün"]
    assert "grün" in (tmp_path / "kept.jsonl").read_text(encoding="utf-8")


def test_check_finds_everything_at_once(tmp_path: Path) -> None:
    changes: dict[int, dict[str, object]] = {
        1: {"caption": ""},
        2: {"caption": "x" * 10_000},
        3: {"caption": "A Cat. "},
        4: {"caption": "a drawing number 0"},
        5: {"md5": "0" * 32},
    }
    path = write_set(tmp_path, count=9, changes=changes)
    (tmp_path / "images/6.png").unlink()
    picture(7, (20, 20)).save(tmp_path / "images/7.png")
    picture(0).save(tmp_path / "images/8.png", compress_level=1)
    suite = PromptSuite("animals", (PromptItem("animals/0", "a cat"),))
    check = SetCheck(known(JsonlDataConfig(path=str(path))), 64, [suite])
    found = {(finding.kind, int(finding.place.split("line ")[1].split()[0]) - 1): finding
             for finding in check.findings()}  # fmt: skip
    assert set(found) == {
        ("caption", 1),
        ("caption", 2),
        ("overlap", 3),
        ("same_caption", 4),
        ("image", 5),
        ("image", 6),
        ("small", 7),
        ("same_pixels", 8),
    }
    assert found["overlap", 3].detail == "a prompt of suite 'animals'"
    assert "line 1 " in found["same_pixels", 8].detail
    assert check.num_rows == 9


def scene(seed: int) -> Image.Image:
    """Smooth blobs, as photographs have."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((128, 128), Image.Resampling.BICUBIC)


def test_images_that_look_alike_are_found_and_others_are_not(tmp_path: Path) -> None:
    path = write_set(tmp_path, count=6)
    for number in range(4):
        scene(number).save(tmp_path / f"images/{number}.png")
    scene(1).resize((90, 90)).save(tmp_path / "images/4.png")
    scene(2).point(lambda value: value * 0.9).save(tmp_path / "images/5.png")
    data = known(JsonlDataConfig(path=str(path)))
    found = list(SetCheck(data, 64, [], with_near=True).findings())
    assert [(f.kind, f.detail.split("line ")[1].split()[0]) for f in found] == [
        ("near", "2"),
        ("near", "3"),
    ]
    assert not list(SetCheck(data, 64, []).findings())


def test_looks_and_digests_by_hand() -> None:
    ramp = Image.fromarray(np.tile(np.arange(0, 180, 20, dtype=np.uint8), (8, 1)))
    assert look(ramp.convert("RGB")) == 0
    falling = ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT).convert("RGB")
    assert look(falling) == 2**64 - 1
    assert pixel_digest(Image.new("RGB", (2, 3))) != pixel_digest(Image.new("RGB", (3, 2)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "judge=aesthetic", "output=x"], "data.path= is missing"),
        (["score", "data.path={set}", "output=x"], "judge= is missing"),
        (["score", "data.path={set}", "judge=beauty", "output=x"], "judge='beauty' does not exist"),
        (["score", "data.path=/no.jsonl", "judge=ocr", "output=x"], "/no.jsonl: no such file"),
        (["filter", "input={set}", "output=x"], "thresholds= is missing, e.g. data filter input="),
        (["filter", "input={set}", "thresholds.beauty=1"], "output= is missing"),
        (["filter", "input=/no", "output=x", "thresholds.beauty=1"], "input=/no: no such file"),
        (["filter", "input={set}", "output=x", "thresholds.b=high"], "must be a number"),
        (["filter", "input={set}", "output=x", "thresholds={}"], "keeps every row; name a score"),
        (["filter", "input={set}", "output=x", "beauty=1"], "there is no key 'beauty' here"),
        (["clean"], "say what data is to do: data score, filter, check"),
        (["check", "data.path={set}", "near=maybe"], "near='maybe' must be true or false"),
        (["check", "data.pth={set}"], "did you mean 'data.path'"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_set(tmp_path)
    assert main(["data", *(word.replace("{set}", str(path)) for word in words)]) == 2
    text = capsys.readouterr().err
    assert text.startswith("soarbench: error: ")
    assert text.count("\n") == 1
    assert message in text


def test_check_asks_first_whether_it_can_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"data.path={write_set(tmp_path)}", "model.resolution=64", "output=/proc/found.jsonl"]
    assert main(["data", "check", *words]) == 2
    assert "output=/proc cannot be written to" in capsys.readouterr().err


def test_check_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_set(tmp_path, changes={1: {"caption": "a photo of a bench"}})
    output = tmp_path / "found.jsonl"
    words = ["data", "check", f"data.path={path}", "model.resolution=64", f"output={output}"]
    assert main(words) == 1
    (finding,) = lines(output)
    assert finding["kind"] == "overlap"
    assert "not compared with suite 'drawbench'" in capsys.readouterr().out
    write_set(tmp_path)
    assert main(words) == 0
    assert output.read_text() == ""


def test_check_writes_over_nothing_but_its_own_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_set(tmp_path, changes={1: {"caption": ""}})
    before = path.read_bytes()
    words = ["data", "check", f"data.path={path}", "model.resolution=64"]
    for output in (path, tmp_path / "images", tmp_path / "images/0.png"):
        assert main([*words, f"output={output}"]) == 2
        said = f"output={output} exists already and holds no findings; choose another output"
        assert said in capsys.readouterr().err
    assert path.read_bytes() == before
