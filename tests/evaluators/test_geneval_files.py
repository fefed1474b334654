import json

import pytest
from PIL import Image

from evaluators.geneval_files import (
    CoverageError,
    check_prompts,
    iter_samples,
    read_folder,
    read_jsonl,
)
from evaluators.geneval_metadata import MetadataError
from evaluators.geneval_prompts import official_metadata
from evaluators.images import ImageError

ENTRIES = [
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


def write_folder(root, entries=ENTRIES, images=2):
    for index, entry in enumerate(entries):
        samples = root / f"{index:05d}" / "samples"
        samples.mkdir(parents=True)
        (samples.parent / "metadata.jsonl").write_text(json.dumps(entry) + "\n")
        for number in range(images):
            Image.new("RGB", (4 + number, 3)).save(samples / f"{number:04d}.png")
    return root


def write_lines(root, lines):
    for line in lines:
        if isinstance(line, dict) and "image" in line:
            Image.new("RGB", (5, 5)).save(root / str(line["image"]))
    path = root / "images.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_official_layout(tmp_path):
    files = read_folder(write_folder(tmp_path))
    assert [file.sample_id for file in files] == [
        "00000/0000", "00000/0001", "00001/0000", "00001/0001",
    ]  # fmt: skip
    assert [file.prompt_id for file in files] == ["00000", "00000", "00001", "00001"]
    samples = list(iter_samples(files))
    assert [sample.image.width for sample in samples] == [4, 5, 4, 5]
    assert samples[2].prompt == "a photo of a red cup"
    assert samples[2].metadata == ENTRIES[1]
    assert files[1].load().image.size == samples[1].image.size


def test_other_files_beside_the_official_layout_are_ignored(tmp_path):
    write_folder(tmp_path)
    Image.new("RGB", (9, 9)).save(tmp_path / "00000" / "grid.png")
    (tmp_path / "00000" / "samples" / ".DS_Store").write_text("")
    (tmp_path / "notes").mkdir()
    assert len(read_folder(tmp_path)) == 4


def test_pixels_are_read_late(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "00001" / "samples" / "0001.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    stream = iter_samples(read_folder(tmp_path), ahead=1)
    assert [next(stream).sample_id for _ in range(3)] == ["00000/0000", "00000/0001", "00001/0000"]
    with pytest.raises(ImageError, match=r"00001/samples/0001\.png"):
        next(stream)


def test_empty_folder(tmp_path):
    with pytest.raises(ImageError, match="no images to score"):
        read_folder(tmp_path)
    write_folder(tmp_path, images=0)
    with pytest.raises(ImageError, match="every samples/ folder is empty"):
        read_folder(tmp_path)


def test_count_mismatch_lists_the_prompts(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "00001" / "samples" / "0001.png").unlink()
    with pytest.raises(CoverageError, match="1 of 2 prompts do not have 2 images: 00001 has 1"):
        read_folder(tmp_path)
    with pytest.raises(CoverageError, match="do not have 4 images"):
        read_folder(tmp_path, images_per_prompt=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "line 1 is not JSON"),
        ("[1]", "line 1 is not a JSON object"),
        ("", "has 0 entries"),
        (f"{json.dumps(ENTRIES[0])}\n" * 2, "has 2 entries"),
        (json.dumps({**ENTRIES[0], "prompt": None}), "prompt is None"),
        (
            json.dumps({**ENTRIES[0], "include": [{"class": "dgo", "count": 1}]}),
            "unknown class 'dgo'.*dog",
        ),
        (
            json.dumps({**ENTRIES[0], "include": [{"class": "dog", "count": 1, "color": "rd"}]}),
            "unknown color 'rd'.*red",
        ),
    ],
)
def test_bad_metadata_names_file_and_value(tmp_path, content, message):
    write_folder(tmp_path)
    (tmp_path / "00001" / "metadata.jsonl").write_text(content)
    with pytest.raises(MetadataError, match=rf"00001/metadata\.jsonl.*{message}") as caught:
        read_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_metadata(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "00000" / "metadata.jsonl").unlink()
    with pytest.raises(MetadataError, match="no metadata file"):
        read_folder(tmp_path)


def test_json_lines_with_metadata_inside_or_beside(tmp_path):
    lines = [
        {"image": "a.png", **ENTRIES[0]},
        {"image": "b.png", "prompt": ENTRIES[1]["prompt"], "metadata": ENTRIES[1]},
        {"image": "c.png", "metadata": ENTRIES[0]},
        {"image": "d.png", **ENTRIES[1]},
    ]
    files = read_jsonl(write_lines(tmp_path, lines))
    assert [file.prompt_id for file in files] == ["00000", "00001", "00000", "00001"]
    assert [dict(file.metadata) for file in files] == [ENTRIES[i] for i in (0, 1, 0, 1)]
    assert [sample.sample_id for sample in iter_samples(files)] == [
        "a.png", "b.png", "c.png", "d.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ({**ENTRIES[0]}, MetadataError, "line 2: image is None"),
        ({"image": "a.png", **ENTRIES[0]}, CoverageError, "more than once: a.png"),
        ({"image": "b.png", **ENTRIES[1]}, CoverageError, "00001 has 1"),
        ({"image": "b.png", "metadata": 3}, MetadataError, "metadata is 3"),
        (
            {"image": "b.png", "prompt": "else", "metadata": ENTRIES[0]},
            MetadataError,
            "prompt is 'else'",
        ),
    ],
)
def test_bad_lines(tmp_path, line, error, message):
    first = {"image": "a.png", **ENTRIES[0]}
    lines = [first, line, {"image": "c.png", **ENTRIES[0]}]
    with pytest.raises(error, match=message):
        read_jsonl(write_lines(tmp_path, lines))


def test_listed_images_must_exist(tmp_path):
    path = tmp_path / "images.jsonl"
    path.write_text(json.dumps({"image": "a.png", **ENTRIES[0]}))
    with pytest.raises(ImageError, match=r"line 1: no image file .*a\.png"):
        read_jsonl(path)
    path.write_text("\n")
    with pytest.raises(ImageError, match="it has no lines"):
        read_jsonl(path)
    with pytest.raises(ImageError, match="no such file"):
        read_jsonl(tmp_path / "other.jsonl")


def test_a_vocabulary_of_shapes(tmp_path):
    entry = {
        "tag": "colors",
        "include": [{"class": "star", "count": 1, "color": "teal"}],
        "prompt": "a teal star",
    }
    write_folder(tmp_path, [entry])
    assert len(read_folder(tmp_path, class_names=("star",), color_names=("teal",))) == 2
    with pytest.raises(MetadataError, match="unknown class 'star'"):
        read_folder(tmp_path)


def test_expected_prompts(tmp_path):
    official = official_metadata()
    files = read_folder(write_folder(tmp_path, official[:6], images=1))
    check_prompts(files, official[:6])
    with pytest.raises(
        CoverageError, match=r"547 missing \(a photo of .* and 542 more\), 0 too many"
    ):
        check_prompts(files, official)
    with pytest.raises(CoverageError, match=r"0 missing \(none\), 2 too many"):
        check_prompts(files, official[:4])
