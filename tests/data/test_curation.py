"""Rows are measured, judged once, selected and listed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from evaluators.images import ImageError
from soarbench.common.errors import UserError
from soarbench.data.config import ImageDataConfig
from soarbench.data.curation import Curation
from soarbench.data.forms import JsonlDataConfig, WebDatasetConfig
from soarbench.data.sources.source import records_of
from tests.sets import CountingJudge, picture, write_set, write_shards


def curation(folder: Path, config: ImageDataConfig, judge: CountingJudge | None = None) -> Curation:
    known = config.with_content()
    assert isinstance(known, ImageDataConfig)
    scorers = {} if judge is None else {"brightness": judge}
    return Curation(known, 64, scorers, "judge of brightness", folder / "cache")


def numbers(found: Curation) -> list[int]:
    return [int(entry.caption.rsplit(" ", 1)[1]) for entry in found.entries()]


def test_rows_at_and_above_the_threshold_are_kept(tmp_path: Path) -> None:
    config = JsonlDataConfig(path=str(write_set(tmp_path)), thresholds={"beauty": 3.0})
    assert numbers(curation(tmp_path, config)) == [3, 4, 5]


def test_the_best_share_by_rank_is_kept(tmp_path: Path) -> None:
    path = write_set(tmp_path, changes={5: {"scores": {"beauty": -1.0}}})
    config = JsonlDataConfig(path=str(path), rank_by=("beauty",), keep_fraction=0.5)
    assert numbers(curation(tmp_path, config)) == [2, 3, 4]


def test_the_first_usable_rows_are_kept(tmp_path: Path) -> None:
    path = str(write_shards(tmp_path))
    config = WebDatasetConfig(path=path, thresholds={"beauty": 1.0}, max_rows=3)
    assert numbers(curation(tmp_path, config)) == [1, 2, 3]


def test_a_judge_is_asked_once_for_scores_that_rows_lack(tmp_path: Path) -> None:
    path = write_set(tmp_path, changes={5: {"scores": {"brightness": 1.0}}})
    config = JsonlDataConfig(path=str(path), thresholds={"brightness": 30.0})
    judge = CountingJudge()
    first = curation(tmp_path, config, judge)
    expected = [n for n in range(5) if np.asarray(picture(n)).mean() >= 30]
    assert 0 < len(expected) < 5
    assert numbers(first) == expected
    assert judge.num_scored == 5
    again = CountingJudge(stop_after=0)
    assert curation(tmp_path, config, again).entries() == first.entries()


def test_judging_goes_on_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soarbench.data.curation.CHUNK", 2)
    config = JsonlDataConfig(path=str(write_set(tmp_path)), thresholds={"brightness": 0.0})
    with pytest.raises(KeyboardInterrupt):
        curation(tmp_path, config, CountingJudge(stop_after=4)).entries()
    (book,) = (tmp_path / "cache").glob("scores-*")
    with book.open("a") as stream:
        stream.write('{"key": "to')
    judge = CountingJudge()
    assert numbers(curation(tmp_path, config, judge)) == list(range(6))
    assert judge.num_scored == 2
    assert all(json.loads(line) for line in book.read_text().splitlines())


def test_buckets_follow_the_images(tmp_path: Path) -> None:
    path = str(write_set(tmp_path, count=3))
    square = curation(tmp_path, JsonlDataConfig(path=path)).entries()
    assert [entry.bucket for entry in square] == [(64, 64)] * 3
    shaped = curation(tmp_path, JsonlDataConfig(path=path, bucket_step=16)).entries()
    assert [entry.bucket for entry in shaped] == [(64, 64), (64, 64), (48, 80)]


def spoil(tmp_path: Path) -> Path:
    """A set with a damaged, a missing and a small image."""
    path = write_set(tmp_path)
    (tmp_path / "images/1.png").write_bytes(b"no image")
    (tmp_path / "images/3.png").unlink()
    picture(4, (60, 200)).save(tmp_path / "images/4.png")
    return path


def test_unusable_images_are_listed_and_left_out_up_to_the_limit(tmp_path: Path) -> None:
    path = str(spoil(tmp_path))
    found = curation(tmp_path, JsonlDataConfig(path=path, max_unreadable=3))
    assert numbers(found) == [0, 2, 5]
    listed = [json.loads(line) for line in found.unusable.path.read_text().splitlines()]
    reasons = [row["reason"] for row in listed]
    assert len(reasons) == 3
    assert "is not an image in a known format" in reasons[0]
    assert "No such file" in reasons[1]
    assert "60 x 200 pixels, smaller than the 64 x 64 it is trained at" in reasons[2]


def test_rows_of_one_md5_are_of_one_image(tmp_path: Path) -> None:
    """Else all of them would be trained on the first one's latents."""
    path = write_set(tmp_path)
    first = tmp_path / json.loads(path.read_text().splitlines()[0])["image"]
    md5 = hashlib.md5(first.read_bytes(), usedforsecurity=False).hexdigest()
    shutil.copy(first, tmp_path / "images/copy.png")
    same = {0: {"md5": md5.upper()}, 1: {"md5": md5.upper(), "image": "images/copy.png"}}
    write_set(tmp_path, changes=same)
    shutil.copy(first, tmp_path / "images/copy.png")
    curation(tmp_path / "a", JsonlDataConfig(path=str(path))).measure()
    write_set(tmp_path, changes={0: {"md5": md5}, 1: {"md5": md5}})
    with pytest.raises(UserError, match=f"its md5 is .*, but the set says {md5}"):
        curation(tmp_path / "b", JsonlDataConfig(path=str(path))).measure()


def test_an_image_that_is_not_the_one_of_its_md5_cannot_be_used(tmp_path: Path) -> None:
    path = write_set(tmp_path, changes={2: {"md5": "abc"}})
    record = list(records_of(JsonlDataConfig(path=str(path))))[2]
    with pytest.raises(ImageError, match="but the set says abc"):
        record.image()


@pytest.mark.parametrize("limit", [0, 2])
def test_one_more_than_the_limit_ends_it(tmp_path: Path, limit: int) -> None:
    config = JsonlDataConfig(path=str(spoil(tmp_path)), max_unreadable=limit)
    with pytest.raises(UserError) as caught:
        curation(tmp_path, config).measure()
    told = str(caught.value)
    assert f"3 images cannot be used, more than data.max_unreadable={limit}" in told
    assert "images/1.png" in told
    assert "\n" not in told


def test_rows_below_the_threshold_may_be_damaged(tmp_path: Path) -> None:
    config = JsonlDataConfig(path=str(spoil(tmp_path)), thresholds={"beauty": 5.0})
    assert numbers(curation(tmp_path, config)) == [5]


def test_an_image_that_no_judge_can_score_counts_as_unusable(tmp_path: Path) -> None:
    class Blind(CountingJudge):
        def __call__(self, samples):  # type: ignore[no-untyped-def]
            return [float("nan") if "2" in s.prompt else 1.0 for s in samples]

    path = str(write_set(tmp_path))
    strict = JsonlDataConfig(path=path, thresholds={"brightness": 0.0})
    for _ in range(2):
        with pytest.raises(UserError, match="brightness gave it no score"):
            curation(tmp_path, strict, Blind()).entries()
    lenient = JsonlDataConfig(path=path, thresholds={"brightness": 0.0}, max_unreadable=1)
    assert numbers(curation(tmp_path, lenient, Blind())) == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caption": ""}, r"line 3 .*: the caption is empty; write one"),
        ({"caption": "x" * 10_000}, "the caption has 10000 characters"),
        ({"scores": {}}, "no score 'beauty', and there is no judge of that name"),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_named(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = str(write_set(tmp_path, changes={2: change}))
    with pytest.raises(UserError, match=message):
        curation(tmp_path, JsonlDataConfig(path=path, thresholds={"beauty": 0.0})).measure()


def test_no_usable_row_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = write_set(tmp_path)
    high = JsonlDataConfig(path=str(path), thresholds={"beauty": 6.8})
    with pytest.raises(UserError, match=r"0 of 6 rows are usable \(6 are below beauty>=6\.8\)"):
        curation(tmp_path, high).measure()
    path.write_text("\n")
    with pytest.raises(UserError, match="0 of 0 rows are usable"):
        curation(tmp_path, JsonlDataConfig(path=str(path))).measure()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"keep_fraction": 0.5}, "name the scores to rank by"),
        ({"rank_by": ("x",)}, "name the scores to rank by"),
        ({"keep_fraction": 0.0}, "keep_fraction"),
        ({"max_unreadable": -1}, "max_unreadable=-1"),
        ({"bucket_step": 4}, "bucket_step=4"),
        ({"max_rows": 0}, "max_rows=0"),
        ({"max_aspect_ratio": float("nan")}, "max_aspect_ratio=nan"),
        ({"thresholds": {"x": float("nan")}}, r"thresholds\.x=nan: must be a finite number"),
        ({"thresholds": {"x": float("inf")}}, r"thresholds\.x=inf: must be a finite number"),
    ],
)
def test_impossible_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        JsonlDataConfig(**values)


def test_a_streamed_set_keeps_its_latents() -> None:
    with pytest.raises(ValueError, match="a streamed set is read front to back"):
        WebDatasetConfig(cache_latents=False)
