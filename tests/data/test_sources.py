"""The three forms of a set give the same records, and say in one line what is wrong with them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from huggingface_hub import constants

from evaluators.images import ImageError
from soarbench.common.errors import UserError
from soarbench.common.strict import address_content
from soarbench.data.config import ImageDataConfig
from soarbench.data.forms import DatasetsDataConfig, JsonlDataConfig, WebDatasetConfig
from soarbench.data.records import Record, caption_fault
from soarbench.data.sources.source import records_of
from tests.sets import picture, write_set, write_shards


def records(config: ImageDataConfig) -> list[Record]:
    known = config.with_content()
    assert isinstance(known, ImageDataConfig)
    return list(records_of(known))


def expect_pictures(found: Sequence[Record], count: int = 6) -> None:
    assert [record.caption for record in found] == [f"a drawing number {i}" for i in range(count)]
    assert [record.scores["beauty"] for record in found] == list(range(count))
    assert len({record.key for record in found}) == count
    for number, record in enumerate(found):
        assert record.measured() == picture(number).size
        assert np.array_equal(np.asarray(record.image()), np.asarray(picture(number)))


def png(number: int) -> dict[str, object]:
    stream = io.BytesIO()
    picture(number).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def table() -> Dataset:
    columns = {
        "image": [png(number) for number in range(6)],
        "text": [f"a drawing number {number}" for number in range(6)],
        "look": [float(number) for number in range(6)],
    }
    return Dataset.from_dict(columns)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


def test_json_lines(tmp_path: Path) -> None:
    expect_pictures(records(JsonlDataConfig(path=str(write_set(tmp_path)))))


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = write_set(tmp_path)
    path.write_text(path.read_text(), encoding="utf-8-sig")
    expect_pictures(records(JsonlDataConfig(path=str(path))))


@pytest.mark.parametrize("name", ["a\0b.png", "\ud800.png", "x" * 5000])
def test_a_name_that_no_file_can_have_is_no_image(tmp_path: Path, name: str) -> None:
    path = write_set(tmp_path, changes={1: {"image": name}})
    record = records(JsonlDataConfig(path=str(path)))[1]
    with pytest.raises(ImageError, match="line 2"):
        record.measured()


def test_half_a_character_is_no_caption(tmp_path: Path) -> None:
    path = write_set(tmp_path, changes={1: {"caption": "a \ud800 dog"}})
    record = records(JsonlDataConfig(path=str(path)))[1]
    assert "half a character" in str(caption_fault(record, 100))


def test_json_lines_by_md5(tmp_path: Path) -> None:
    path = write_set(tmp_path / "set")
    rows = []
    for number, line in enumerate(path.read_text().splitlines()):
        row = json.loads(line)
        image = tmp_path / "set" / row.pop("image")
        row["md5"] = hashlib.md5(image.read_bytes(), usedforsecurity=False).hexdigest()
        # Flat, and in a folder of the first two digits.
        folder = tmp_path / "flat" if number % 2 else tmp_path / "flat" / row["md5"][:2]
        folder.mkdir(parents=True, exist_ok=True)
        image.rename(folder / f"{row['md5']}.png")
        rows.append(row)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = records(JsonlDataConfig(path=str(path), image_dir=str(tmp_path / "flat")))
    expect_pictures(found)
    assert found[0].md5 == rows[0]["md5"]


def test_a_changed_image_has_another_key(tmp_path: Path) -> None:
    config = JsonlDataConfig(path=str(write_set(tmp_path)))
    before = records(config)
    picture(9, (70, 70)).save(tmp_path / "images/2.png")
    changed = [a.key != b.key for a, b in zip(before, records(config), strict=True)]
    assert changed == [False, False, True, False, False, False]


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet(tmp_path: Path, streaming: bool) -> None:
    table().to_parquet(tmp_path / "set" / "train.parquet")
    config = DatasetsDataConfig(
        path=str(tmp_path / "set"), score_columns={"beauty": "look"}, streaming=streaming
    )
    expect_pictures(records(config))


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_other_files_or_columns_have_other_keys(tmp_path: Path, streaming: bool) -> None:
    """Latents and scores are kept by key, in a folder that all sets share."""
    for name, numbers in (("a", (0, 1)), ("b", (2, 3))):
        columns = {
            "image": [png(number) for number in numbers],
            "photo": [png(number + 2) for number in numbers],
            "text": [f"number {number}" for number in numbers],
        }
        Dataset.from_dict(columns).to_parquet(tmp_path / "set" / name / "train.parquet")
    keys = set()
    for files, column in (("a/*", "image"), ("b/*", "image"), ("a/*", "photo")):
        config = DatasetsDataConfig(
            path=str(tmp_path / "set"), data_files=files, image_column=column, streaming=streaming
        )
        found = records(config)
        shown = 0 if (files, column) == ("a/*", "image") else 2
        assert np.array_equal(np.asarray(found[0].image()), np.asarray(picture(shown)))
        keys |= {record.key for record in found}
    assert len(keys) == 6


def test_an_image_without_bytes_and_path_is_unreadable(tmp_path: Path) -> None:
    rows = {"image": [png(0), {"bytes": None, "path": None}], "text": ["a", "b"]}
    (tmp_path / "set").mkdir()
    Dataset.from_dict(rows).to_parquet(tmp_path / "set" / "train.parquet")
    _, broken = records(DatasetsDataConfig(path=str(tmp_path / "set")))
    with pytest.raises(ImageError, match="there are no bytes of it"):
        broken.measured()


@pytest.mark.parametrize(
    "change", [{"image": "../secret.png"}, {"image": None, "md5": "../secret"}]
)
def test_json_lines_name_files_of_their_own_folder(
    tmp_path: Path, change: dict[str, object]
) -> None:
    picture(1).save(tmp_path / "secret.png")
    config = JsonlDataConfig(path=str(write_set(tmp_path / "set", changes={1: change})))
    with pytest.raises(ImageError, match=r"outside the set's folder; data\.foreign_files=true"):
        records(config)[1].measured()
    foreign = records(dataclasses.replace(config, foreign_files=True))[1]
    assert foreign.measured() == picture(1).size
    assert address_content(config) == address_content(
        dataclasses.replace(config, foreign_files=True)
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_rows_of_parquet_name_files_of_their_own_folder(
    tmp_path: Path, streaming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {
        "image": [{"bytes": None, "path": path} for path in ("http://127.0.0.1:9/x", "/etc/hosts")],
        "text": ["a", "b"],
    }
    (tmp_path / "set").mkdir()
    Dataset.from_dict(rows).to_parquet(tmp_path / "set" / "train.parquet")
    config = DatasetsDataConfig(path=str(tmp_path / "set"), streaming=streaming)
    read = records(config)
    monkeypatch.setattr("fsspec.open", lambda path, *_: pytest.fail(f"{path} was fetched"))
    for record in read:
        with pytest.raises(ImageError, match=r"outside the set.*data\.foreign_files=true"):
            record.measured()


@pytest.mark.parametrize("split", [None, "train"])
def test_a_set_that_datasets_saved(tmp_path: Path, split: str | None) -> None:
    saved = table() if split is None else DatasetDict({split: table()})
    saved.save_to_disk(tmp_path / "set")
    expect_pictures(
        records(DatasetsDataConfig(path=str(tmp_path / "set"), score_columns={"beauty": "look"}))
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_an_image_folder(tmp_path: Path, streaming: bool) -> None:
    write_set(tmp_path / "set" / "train")
    rows = [
        json.loads(line)
        for line in (tmp_path / "set/train/rows.jsonl").read_text().split("\n")[:-1]
    ]
    (tmp_path / "set/train/rows.jsonl").unlink()
    facts = [
        {"file_name": row["image"], "text": row["caption"], "look": row["scores"]["beauty"]}
        for row in rows
    ]
    text = "".join(f"{json.dumps(fact)}\n" for fact in facts)
    (tmp_path / "set/train/metadata.jsonl").write_text(text)
    config = DatasetsDataConfig(
        path=str(tmp_path / "set"), score_columns={"beauty": "look"}, streaming=streaming
    )
    expect_pictures(records(config))


def test_tar_shards_of_a_set_on_the_hub_have_captions_within_their_objects(tmp_path: Path) -> None:
    write_shards(tmp_path / "part_1")
    write_shards(tmp_path / "part_2", count=2)
    config = DatasetsDataConfig(
        path=str(tmp_path),
        data_files="part_2/*.tar",
        image_column="png",
        caption_column="json.caption",
    )
    found = records(config)
    assert [one.caption for one in found] == ["a drawing number 0", "a drawing number 1"]
    assert found[1].image().size == picture(1).size
    with pytest.raises(UserError, match="there is no column 'text'"):
        records(dataclasses.replace(config, caption_column="text.caption"))


@pytest.mark.parametrize("data_files", [None, "data/*.parquet"])
def test_a_set_of_the_hubs_cache_is_read_without_the_hub(
    data_files: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    config = DatasetsDataConfig(
        path="own/set", revision=40 * "a", data_files=data_files, score_columns={"beauty": "look"}
    )
    included = "" if data_files is None else " --include 'data/\\*.parquet'"
    missing = f"hf download --repo-type dataset own/set --revision {40 * 'a'}{included}$"
    with pytest.raises(UserError, match=missing):
        records(config)
    repository = tmp_path / "datasets--own--set"
    (repository / "blobs").mkdir(parents=True)
    table().to_parquet(repository / "snapshots" / config.revision / "data/train-0.parquet")
    expect_pictures(records(config))
    assert records(config)[0].key.startswith(f"{config.own_content()} ")
    # An interrupted download: a part must not pass for the set.
    (repository / "blobs" / "b.incomplete").touch()
    with pytest.raises(UserError, match="does not have the set whole"):
        records(config)


def test_tar_shards(tmp_path: Path) -> None:
    folder = write_shards(tmp_path)
    expect_pictures(records(WebDatasetConfig(path=str(folder))))
    expect_pictures(records(WebDatasetConfig(path=str(folder / "part-*.tar"))))
    assert len(records(WebDatasetConfig(path=str(folder / "part-000.tar")))) == 4


def test_scores_of_a_file_choose_rows_and_add_to_theirs(tmp_path: Path) -> None:
    config = WebDatasetConfig(path=str(write_shards(tmp_path)))
    keys = [record.key for record in records(config)]
    scores = tmp_path / "scores.jsonl"
    rows = ({"key": keys[number], "scores": {"other": 10 * number}} for number in (4, 1))
    scores.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = records(dataclasses.replace(config, scores=str(scores)))
    assert [record.scores for record in found] == [
        {"beauty": 1.0, "other": 10.0},
        {"beauty": 4.0, "other": 40.0},
    ]
    assert [record.key for record in found] == [keys[1], keys[4]]


def test_the_address_follows_the_content(tmp_path: Path) -> None:
    def content(config: ImageDataConfig) -> str:
        known = config.with_content()
        assert isinstance(known, ImageDataConfig)
        assert known.content is not None
        return known.content

    jsonl = JsonlDataConfig(path=str(write_set(tmp_path / "a")))
    shards = WebDatasetConfig(path=str(write_shards(tmp_path / "b")))
    before = content(jsonl), content(shards)
    assert before == (content(jsonl), content(shards))
    write_set(tmp_path / "a", changes={0: {"caption": "another"}})
    write_shards(tmp_path / "b", count=5)
    assert content(jsonl) != before[0]
    assert content(shards) != before[1]
    hub = DatasetsDataConfig(path="org/name", revision="abc")
    assert content(hub) == "org/name@abc"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, r'line 2: no image; give its path as "image", or its "md5"'),
        ({"scores": [1]}, r"line 2: scores=\[1\] must be an object"),
        ({"scores": {"beauty": "high"}}, r"line 2: score beauty='high' must be a finite number"),
        ({"scores": {"beauty": math.inf}}, "line 2: score beauty=inf must be a finite number"),
        ({"scores": {"beauty": 10**400}}, "must be a finite number"),
        ({"width": "64", "height": 64}, r"line 2: width='64', height=64 must be positive"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write_set(tmp_path, changes={1: change})
    with pytest.raises(UserError, match=message):
        records(JsonlDataConfig(path=str(path)))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 7 is not JSON"),
        ("[" * 50_000, "line 7 is not JSON"),
        ("[1]", "line 7: must be an object"),
        ("\xff", "not UTF-8"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write_set(tmp_path)
    with path.open("a", encoding="latin-1") as stream:
        stream.write(line)
    with pytest.raises(UserError, match=message):
        records(JsonlDataConfig(path=str(path)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (JsonlDataConfig(path="/nowhere.jsonl"), r"data\.path=/nowhere\.jsonl: no such file"),
        (JsonlDataConfig(path="/"), "a folder; give a JSON Lines file, or say data=datasets"),
        (WebDatasetConfig(path="/nowhere"), "no tar files there"),
        (DatasetsDataConfig(path="/nowhere"), "no such folder"),
        (DatasetsDataConfig(path="/nowhere", scores="/no"), "no such folder"),
    ],
)
def test_what_is_not_there_is_named(config: ImageDataConfig, message: str) -> None:
    with pytest.raises(UserError, match=message):
        records(config)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    table().to_parquet(tmp_path / "set" / "train.parquet")
    config = DatasetsDataConfig(path=str(tmp_path / "set"), caption_column="txt")
    with pytest.raises(
        UserError, match=r"no column 'txt' \(data\.caption_column\), did you mean 'text'"
    ):
        records(config)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_column_that_holds_no_images_is_named(tmp_path: Path, streaming: bool) -> None:
    table().to_parquet(tmp_path / "set" / "train.parquet")
    config = DatasetsDataConfig(
        path=str(tmp_path / "set"), image_column="look", streaming=streaming
    )
    with pytest.raises(UserError, match="`datasets` cannot read it"):
        records(config)


def test_a_file_that_datasets_cannot_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"no parquet")
    (tmp_path / "part.tar").write_bytes(b"no tar")
    for config in (
        DatasetsDataConfig(path=str(tmp_path)),
        WebDatasetConfig(path=str(tmp_path / "part.tar")),
    ):
        with pytest.raises(UserError, match="`datasets` cannot read it") as caught:
            records(config)
        assert "\n" not in str(caught.value)


def test_a_sample_whose_facts_are_no_object_is_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "part.tar", "w") as shard:
        for suffix, content in (("png", png(0)["bytes"]), ("json", b"[1]")):
            assert isinstance(content, bytes)
            entry = tarfile.TarInfo(f"0.{suffix}")
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))
    with pytest.raises(UserError, match=r"sample 0: its \.json file must be an object"):
        records(WebDatasetConfig(path=str(tmp_path / "part.tar")))


def test_an_image_of_another_size_than_the_set_says_is_named(tmp_path: Path) -> None:
    path = write_set(tmp_path, changes={1: {"width": 10, "height": 20}})
    with pytest.raises(ImageError, match="100 x 80 pixels, but the set says 10 x 20"):
        records(JsonlDataConfig(path=str(path)))[1].measured()


@pytest.mark.parametrize(
    ("caption", "fault"),
    [
        ("a cat", None),
        ("  ", "the caption is empty"),
        ("x" * 2000, None),
        ("x" * 10_000, r"has 10000 characters, more than data.max_caption_length=2000"),
    ],
)
def test_captions_that_cannot_be_trained_on(caption: str, fault: str | None) -> None:
    record = Record(key="k", place="row 1", caption=caption, open=io.BytesIO)
    found = caption_fault(record, JsonlDataConfig().max_caption_length)
    assert (found is None) == (fault is None)
    assert found is None or (fault is not None and fault in found)


@pytest.mark.parametrize("caption", [None, 3])
def test_a_caption_that_is_no_text_is_empty(tmp_path: Path, caption: object) -> None:
    path = write_set(tmp_path, changes={2: {"caption": caption}})
    assert records(JsonlDataConfig(path=str(path)))[2].caption == ""
