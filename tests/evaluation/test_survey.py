"""What is wrong with a user's images, prompts and weights is one line, exit code 2, or said."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soarbench.cli.app import main

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
LEVELS = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)


def plain_folder(root: Path, *names: str) -> Path:
    folder = root / "images"
    folder.mkdir()
    for name in names:
        PICTURE.save(folder / name)
    return folder


def scored(folder: Path, *more: str, judge: str = "oracle_aesthetic", prompt: str = "a cat") -> int:
    prompts = folder.parent / "prompts.txt"
    prompts.write_text(f"{prompt}\n")
    words = ["suite=drawbench", f"images={folder}", f"suites.drawbench.judges={judge}"]
    words.append(f"suites.drawbench.prompts={prompts}")
    return main(["score", *words, f"output={folder.parent / 'out'}", *more])


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert text.startswith("soarbench: error: ")
    assert text.count("\n") == 1
    return text


def cut(path: Path) -> None:
    PICTURE.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def spoilt(path: Path) -> None:
    PICTURE.save(path)
    content = path.read_bytes()
    path.write_bytes(content[:200] + b"0123456789ab" + content[212:])


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("0.png", lambda path: path.write_text("no image"), "not an image in a known format"),
        ("0.png", lambda path: path.write_bytes(b""), "not an image in a known format"),
        ("0.png", cut, "is damaged or cut short"),
        ("0.png", spoilt, "is damaged or cut short"),
        ("0.jpg", cut, "is damaged or cut short"),
        ("0.png", lambda path: Image.new("RGB", (1, 1)).save(path), "is 1 x 1 pixels"),
        ("0.tif", lambda path: Image.new("F", (9, 9), 0.5).save(path), "has no defined white"),
    ],
)
def test_a_damaged_image_is_one_line(
    name: str,
    make: Callable[[Path], object],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = plain_folder(tmp_path)
    make(folder / name)
    assert scored(folder) == 2
    text = complaint(capsys)
    assert message in text
    assert str(folder / name) in text
    assert not (tmp_path / "out/oracle_aesthetic.jsonl").exists()


def turned(path: Path, orientation: int = 6) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    PICTURE.save(path, exif=exif)


@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [
        ("0.png", lambda path: Image.fromarray(LEVELS).save(path), "1 of 16 bits"),
        ("0.png", lambda path: PICTURE.quantize(16).save(path), "1 with a palette"),
        ("0.png", lambda path: PICTURE.convert("RGBA").save(path), "1 with transparency"),
        ("0.jpg", lambda path: PICTURE.convert("CMYK").save(path), "1 CMYK"),
        ("0.jpg", turned, "1 turned by EXIF"),
        ("0.png", lambda path: PICTURE.convert("L").save(path), "1 grey"),
    ],
)
def test_an_unusual_image_is_converted_and_said(
    name: str,
    make: Callable[[Path], object],
    kind: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = plain_folder(tmp_path)
    make(folder / name)
    assert scored(folder) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("converted to upright 8-bit RGB" in line and kind in line for line in lines) == 1


def test_usual_images_are_not_commented(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert scored(plain_folder(tmp_path, "0.png")) == 0
    assert "converted" not in capsys.readouterr().out


def test_an_orientation_that_turns_nothing_is_not_said_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Some cameras write 0, which EXIF does not know.
    turned(plain_folder(tmp_path) / "0.jpg", 0)
    assert scored(tmp_path / "images") == 0
    assert "converted" not in capsys.readouterr().out


def test_a_folder_without_images_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scored(plain_folder(tmp_path)) == 2
    assert "no images to score in" in complaint(capsys)
    assert not (tmp_path / "out").exists()


def test_images_and_prompts_of_different_counts_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        scored(plain_folder(tmp_path, "0.png", "2.png"), "suites.drawbench.images_per_prompt=3")
        == 2
    )
    text = complaint(capsys)
    assert "has 2 images, but 1 prompts with 3 images each need 3; numbers missing: 1" in text
    assert not (tmp_path / "out").exists()


def test_prompts_without_quotes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scored(plain_folder(tmp_path, "0.png"), judge="ocr") == 2
    assert "prompt 'a cat' has no text in double quotes" in complaint(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("clause", "message"),
    [
        ({"class": "stop sing", "count": 1}, "unknown class 'stop sing'.*did you mean stop sign"),
        ({"class": "dog", "count": 1, "color": "mauve"}, "unknown color 'mauve'"),
        ({"class": "dog", "count": 0}, "count is 0 for 'dog'"),
        ({"class": "dog", "count": 1, "position": ["near", 0]}, "position is"),
    ],
)
def test_metadata_that_cannot_be_judged_is_one_line(
    clause: dict[str, object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = plain_folder(tmp_path, "0.png")
    entry = {"image": "0.png", "prompt": "p", "tag": "colors", "include": [clause]}
    (folder / "list.jsonl").write_text(json.dumps(entry))
    words = ["suite=geneval", f"images={folder / 'list.jsonl'}", "coverage=found"]
    assert main(["score", *words, f"output={tmp_path / 'out'}"]) == 2
    text = complaint(capsys)
    assert re.search(message, text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("judge", "key"), [("clipscore", "weights"), ("pickscore", "weights"), ("hpsv21", "weights")]
)
def test_weights_that_are_nowhere_are_one_line(
    judge: str,
    key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    folder = plain_folder(tmp_path, "0.png")
    assert scored(folder, f"judge.{judge}.{key}=nobody/no-such-model", judge=judge) == 2
    text = complaint(capsys)
    assert "nobody/no-such-model: no such path, and not in the local hub cache" in text
    assert "while HF_HUB_OFFLINE is set" in text


def test_a_head_of_the_wrong_shape_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from soarbench.lab.assets import asset_dir

    folder = plain_folder(tmp_path, "0.png")
    torch.save({"layers.0.weight": torch.zeros(3, 4)}, tmp_path / "head.pth")
    more = [f"judge.aesthetic.weights={asset_dir('clip')}"]
    more += [f"judge.aesthetic.head={tmp_path / 'head.pth'}"]
    assert scored(folder, *more, judge="aesthetic") == 2
    text = complaint(capsys)
    assert "head.pth" in text
    assert not (tmp_path / "out/aesthetic.jsonl").exists()
