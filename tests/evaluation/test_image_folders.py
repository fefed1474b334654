"""Images of any model and their prompts, found in every form that is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from evaluators.geneval.prompts import official_metadata
from evaluators.samples import CoverageError
from soarbench.common.errors import UserError
from soarbench.data.prompts import PromptItem, PromptSuite
from soarbench.evaluation.image_folders import find_images, prompts_digest
from soarbench.evaluation.suites import read_prompts

ENTRIES: list[dict[str, object]] = [
    {
        "tag": "single_object",
        "include": [{"class": "dog", "count": 1}],
        "prompt": "a photo of a dog",
    },
    {
        "tag": "colors",
        "include": [{"class": "cup", "count": 1, "color": "red"}],
        "prompt": "a photo of a red cup",
    },
]

#: Without prompts of its own: those of the images are taken.
ANY = PromptSuite("s", ())


def suite(items: Sequence[PromptItem]) -> PromptSuite:
    return PromptSuite("geneval", tuple(items))


def write_folder(
    root: Path, entries: Sequence[Mapping[str, object]] = ENTRIES, images: int = 2
) -> Path:
    for index, entry in enumerate(entries):
        samples = root / f"{index:05d}" / "samples"
        samples.mkdir(parents=True)
        (samples.parent / "metadata.jsonl").write_text(json.dumps(entry) + "\n")
        for number in range(images):
            Image.new("RGB", (8, 8)).save(samples / f"{number:04d}.png")
    return root


def write_lines(root: Path, lines: Sequence[Mapping[str, object]]) -> Path:
    for line in lines:
        if "image" in line:
            Image.new("RGB", (8, 8)).save(root / str(line["image"]))
    path = root / "images.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_official_layout(tmp_path: Path) -> None:
    files = find_images(write_folder(tmp_path), ANY, None)
    assert [file.sample_id for file in files] == [
        "00000/0000", "00000/0001", "00001/0000", "00001/0001",
    ]  # fmt: skip
    assert [file.prompt_id for file in files] == ["s/00000", "s/00000", "s/00001", "s/00001"]
    assert [file.image_index for file in files] == [0, 1, 0, 1]
    assert files[2].prompt == "a photo of a red cup"
    assert files[2].metadata == ENTRIES[1]


def test_other_files_beside_the_official_layout_are_ignored(tmp_path: Path) -> None:
    write_folder(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "00000" / "grid.png")
    (tmp_path / "00000" / "samples" / ".DS_Store").write_text("")
    (tmp_path / "notes").mkdir()
    assert len(find_images(tmp_path, ANY, None)) == 4


def test_a_prompt_without_its_images_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "00001" / "samples" / "0001.png").unlink()
    with pytest.raises(CoverageError, match="1 of 2 prompts do not have 2 images: s/00001 has 1"):
        find_images(tmp_path, ANY, None)
    (tmp_path / "00001" / "samples" / "0000.png").unlink()
    with pytest.raises(CoverageError, match="has no image of 'a photo of a red cup'"):
        find_images(tmp_path, ANY, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not json", "is not JSON"),
        (b"[1]", "is not a JSON object"),
        (b'{"prompt": "caf\xe9"}', "is not JSON"),
        (b"[" * 50_000 + b"]" * 50_000, "is not JSON: maximum recursion depth"),
        (b"", "has 0 entries"),
        (f"{json.dumps(ENTRIES[0])}\n".encode() * 2, "has 2 entries"),
        (json.dumps({**ENTRIES[0], "prompt": None}).encode(), "prompt is None"),
    ],
)
def test_bad_metadata_names_file_and_value(tmp_path: Path, content: bytes, message: str) -> None:
    write_folder(tmp_path)
    (tmp_path / "00001" / "metadata.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=rf"00001/metadata\.jsonl.*{message}") as caught:
        find_images(tmp_path, ANY, None)
    assert "\n" not in str(caught.value)


def test_missing_metadata(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "00000" / "metadata.jsonl").unlink()
    with pytest.raises(UserError, match=r"no .*metadata\.jsonl: it must hold the prompt"):
        find_images(tmp_path, ANY, None)


def test_json_lines_with_metadata_inside_or_beside(tmp_path: Path) -> None:
    lines = [
        {"image": "a.png", **ENTRIES[0]},
        {"image": "b.png", "prompt": ENTRIES[1]["prompt"], "metadata": ENTRIES[1]},
        {"image": "c.png", "metadata": ENTRIES[0]},
        {"image": "d.png", **ENTRIES[1]},
    ]
    files = find_images(write_lines(tmp_path, lines), ANY, None)
    assert [file.prompt_id for file in files] == ["s/00000", "s/00001", "s/00000", "s/00001"]
    assert [dict(file.metadata) for file in files] == [ENTRIES[i] for i in (0, 1, 0, 1)]
    assert [file.sample_id for file in files] == ["a.png", "b.png", "c.png", "d.png"]
    assert [file.image_index for file in files] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ({**ENTRIES[0]}, UserError, "line 2: image is None"),
        ({"image": "a.png", **ENTRIES[0]}, CoverageError, "more than once: a.png"),
        ({"image": "b.png", **ENTRIES[1]}, CoverageError, "s/00001 has 1"),
        ({"image": "b.png", "metadata": 3}, UserError, "metadata is 3"),
        ({"image": "b.png", "prompt": ""}, UserError, "prompt is ''"),
        # Of a prompt that was cut within an emoji; it failed when all images were judged.
        ({"image": "b.png", "prompt": "\ud83d"}, UserError, r"line 2 holds half a .*ud83d"),
        (
            {"image": "b.png", "prompt": "else", "metadata": ENTRIES[0]},
            UserError,
            "prompt is 'else'",
        ),
    ],
)
def test_bad_lines(
    tmp_path: Path, line: dict[str, object], error: type[Exception], message: str
) -> None:
    first = {"image": "a.png", **ENTRIES[0]}
    lines = [first, line, {"image": "c.png", **ENTRIES[0]}]
    with pytest.raises(error, match=message):
        find_images(write_lines(tmp_path, lines), ANY, None)


def test_listed_images_must_exist(tmp_path: Path) -> None:
    path = tmp_path / "images.jsonl"
    path.write_text(json.dumps({"image": "a.png", **ENTRIES[0]}))
    with pytest.raises(UserError, match=r"line 1: image 'a\.png' is no file"):
        find_images(path, ANY, None)
    path.write_text("\n")
    with pytest.raises(UserError, match="it has no lines"):
        find_images(path, ANY, None)
    with pytest.raises(UserError, match="no such folder"):
        find_images(tmp_path / "other.jsonl", ANY, None)


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    """To open one would wait for ever."""
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    os.mkfifo(tmp_path / "1.png")
    items = tuple(PromptItem(f"s/{i:05d}", f"a {i}", {"prompt": f"a {i}"}) for i in range(2))
    with pytest.raises(CoverageError, match="has 1 images, but 2 prompts"):
        find_images(tmp_path, PromptSuite("s", items), 1)


@pytest.mark.parametrize("order", [("1.png", "01.png"), ("01.png", "1.png")])
def test_names_of_one_number_are_in_one_order(
    order: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in order:
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    monkeypatch.setattr(Path, "iterdir", lambda folder: (folder / name for name in order))
    items = [PromptItem(f"s/{i:05d}", text, {"prompt": text}) for i, text in enumerate("ab")]
    files = find_images(tmp_path, suite(items), None)
    assert [(file.path.name, file.prompt) for file in files] == [("01.png", "a"), ("1.png", "b")]


def test_a_name_of_raised_digits_is_no_number(tmp_path: Path) -> None:
    """It ended in a traceback of int."""
    for name in ("²", "3", "4"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    items = [PromptItem(f"s/{i:05d}", text, {"prompt": text}) for i, text in enumerate("ab")]
    with pytest.raises(CoverageError, match="has 3 images, but 2 prompts"):
        find_images(tmp_path, suite(items), None)


def test_the_prompts_of_the_suite_are_covered_exactly(tmp_path: Path) -> None:
    official = [
        PromptItem(f"geneval/{index:05d}", str(entry["prompt"]), entry)
        for index, entry in enumerate(official_metadata())
    ]
    write_folder(tmp_path, official_metadata()[:6], images=1)
    assert len(find_images(tmp_path, suite(official[:6]), 1)) == 6
    with pytest.raises(
        CoverageError, match=r"547 missing \(a photo of .* and 542 more\), 0 too many"
    ):
        find_images(tmp_path, suite(official), 1)
    with pytest.raises(CoverageError, match=r"0 missing \(none\), 2 too many"):
        find_images(tmp_path, suite(official[:4]), 1)
    there = find_images(
        write_folder(tmp_path / "part", official_metadata()[2:6], images=1),
        suite(official[:4]),
        1,
        is_exact=False,
    )
    # Of the suite's own prompts those ids, so that scores of part of a suite can be paired.
    numbers = [file.prompt_id.removeprefix("geneval/") for file in there]
    assert numbers == ["00002", "00003", "00004", "00005"]
    changed = {**official_metadata()[0], "tag": "counting"}
    (tmp_path / "00000/metadata.jsonl").write_text(json.dumps(changed))
    with pytest.raises(CoverageError, match="is not the suite's"):
        find_images(tmp_path, suite(official[:6]), 1)


def test_the_digest_of_prompts_is_the_suites_where_all_are_its_own(tmp_path: Path) -> None:
    items = [PromptItem(f"geneval/{i:05d}", str(e["prompt"]), e) for i, e in enumerate(ENTRIES)]
    files = find_images(write_folder(tmp_path), suite(items), None)
    assert prompts_digest(files, suite(items)) == suite(items).sha256
    # Part of them is judged as a run judges part of a suite.
    assert prompts_digest(files[:2], suite(items)) == suite(items).sha256
    # A file that names each prompt once an image is the same suite.
    assert prompts_digest(files, suite([*items, *items])) == suite(items).sha256
    others = {prompts_digest(files, ANY), prompts_digest(files[:2], ANY), suite(items).sha256}
    assert len(others) == 3
    changed = PromptItem(items[0].prompt_id, items[0].prompt, {**ENTRIES[0], "tag": "counting"})
    assert prompts_digest(files, suite([changed, items[1]])) == prompts_digest(files, ANY)


def test_prompts_files(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n\n a sign “ÅÄÖ” \na cat\n", encoding="utf-8")
    items = read_prompts(path, "s")
    assert [(item.prompt_id, item.prompt) for item in items] == [
        ("s/00000", "a cat"), ("s/00001", "a sign “ÅÄÖ”"), ("s/00000", "a cat"),
    ]  # fmt: skip
    for content, message in ((b"", "is empty"), (b"caf\xe9", "is not UTF-8 text")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"suites\.s\.prompts={path} {message}"):
            read_prompts(path, "s")


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl"])
def test_the_mark_that_some_editors_begin_a_file_with_is_no_part_of_a_prompt(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    path.write_text('{"prompt": "a cat"}\n' if path.suffix == ".jsonl" else "a cat\n", "utf-8-sig")
    assert [item.prompt for item in read_prompts(path, "s")] == ["a cat"]
