"""What doctor prints of judges in each state that one can be in."""

from __future__ import annotations

import contextlib
import json
import socket
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from huggingface_hub import constants

from soarbench.cli import doctor as module
from soarbench.cli.app import main

CLIP = "openai/clip-vit-large-patch14"
PUBLISHED = {
    "vqascore", "geneval2", "hpsv3",
    "geneval", "ocr", "clipscore", "aesthetic", "pickscore", "hpsv21", "imagereward",
    "unifiedreward",
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache of our own, empty; a wide terminal; no server anywhere."""

    def refused(*_arguments: object, **_options: object) -> object:
        raise ConnectionRefusedError

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setenv("COLUMNS", "300")
    return tmp_path


def put(cache: Path, repo: str, *files: str, revision: str = "abc") -> None:
    """Files in the cache as the hub's client leaves them."""
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(revision)
    for name in files:
        path = root / "snapshots" / "abc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def examined(capsys: pytest.CaptureFixture[str], *names: str) -> tuple[dict[str, list[str]], str]:
    """Rows of the table by judge, and the lines below it."""
    assert main(["doctor", *names]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[part.strip() for part in line.split("│")[1:-1]] for line in lines if "│" in line]
    below = lines[next(i for i, line in enumerate(lines) if line.startswith("└")) + 1 :]
    return {row[0]: row[1:] for row in rows}, "\n".join(below)


def test_all_judges_are_listed_with_a_way_to_get_each(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, below = examined(capsys)
    assert rows.keys() >= PUBLISHED
    assert not any(cache.iterdir())
    missing = {name for name, row in rows.items() if row[0] != "ready"}
    assert missing == PUBLISHED - {"ocr"}
    assert [line.split(":")[0] for line in below.splitlines()] == [
        f"to get {name}" for name in rows if name in missing
    ]
    assert all(measures for _, _, _, measures in rows.values())


def test_only_the_judges_that_are_named_are_examined(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(cache, CLIP, "config.json", "model.safetensors")
    rows, below = examined(capsys, "ocr", "clipscore")
    assert list(rows) == ["ocr", "clipscore"]
    assert [row[0] for row in rows.values()] == ["ready", "ready"]
    assert below == ""


def test_a_judge_of_two_models_lacks_the_one_that_is_absent(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(cache, CLIP, "config.json", "model.safetensors")
    rows, below = examined(capsys, "aesthetic")
    assert rows["aesthetic"][0] == "missing weights camenduru/improved-aesthetic-predictor"
    assert below == "to get aesthetic: python -m soarbench fetch aesthetic"


@pytest.mark.parametrize(
    ("files", "revision"),
    [
        (["config.json"], "abc"),  # a download that was broken off
        (["config.json", "model.safetensors"], "def"),  # of a revision that is no longer main
        ([], "abc"),
    ],
)
def test_weights_that_are_not_whole_are_missing(
    cache: Path, capsys: pytest.CaptureFixture[str], files: list[str], revision: str
) -> None:
    put(cache, CLIP, *files, revision=revision)
    rows, below = examined(capsys, "clipscore")
    assert rows["clipscore"][0] == f"missing weights {CLIP}"
    assert below == "to get clipscore: python -m soarbench fetch clipscore"


def test_a_large_model_lacks_the_part_that_is_still_to_come(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repo, parts = "Qwen/Qwen3-VL-8B-Instruct", ("model-1.safetensors", "model-2.safetensors")
    put(cache, repo, "config.json", parts[0])
    snapshot = cache / f"models--{repo.replace('/', '--')}" / "snapshots" / "abc"
    index = {"weight_map": {f"layer.{part}": part for part in parts}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert examined(capsys, "vqascore")[0]["vqascore"][0] == f"missing weights {repo}"
    (snapshot / parts[1]).write_bytes(b"x")
    assert examined(capsys, "vqascore")[0]["vqascore"][0] == "ready"


def test_sizes_are_sums_over_a_judges_models(capsys: pytest.CaptureFixture[str]) -> None:
    rows, _ = examined(capsys, "geneval", "ocr", "clipscore", "hpsv21")
    sizes = {name: row[1:3] for name, row in rows.items()}
    assert sizes["ocr"] == ["-", "-"]
    assert sizes["clipscore"] == ["1.71", "1.71"]
    # ViT-L/14's 1.71 GB and the detector's 0.28; HPS v2.1 is stored in half of what it fills.
    assert sizes["geneval"] == ["1.99", "1.99"]
    assert sizes["hpsv21"] == ["1.97", "3.94"]


def test_a_package_that_is_not_installed_comes_first_under_its_pip_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(package: str) -> None:
        raise PackageNotFoundError(package)

    # By import name or by pip name: whichever way doctor asks.
    monkeypatch.setattr(module, "find_spec", lambda _name: None, raising=False)
    monkeypatch.setattr(module, "distribution", absent, raising=False)
    rows, below = examined(capsys, "pickscore", "geneval")
    assert rows["geneval"][0].startswith("missing packages ")
    assert "open_clip_torch" in rows["geneval"][0]
    packages = rows["geneval"][0].removeprefix("missing packages ")
    assert f"to get geneval: pip install {packages}" in below.splitlines()
    assert "fetch" not in below


def test_a_server_is_asked_whether_it_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, below = examined(capsys, "unifiedreward")
    assert rows["unifiedreward"][0] == "missing a server at http://127.0.0.1:8080/v1"
    assert "--port 8080" in below
    asked = []

    def answers(
        address: tuple[str, int], timeout: float
    ) -> contextlib.AbstractContextManager[None]:
        asked.append((address, timeout))
        return contextlib.nullcontext()

    monkeypatch.setattr(socket, "create_connection", answers)
    rows, below = examined(capsys, "unifiedreward")
    assert (rows["unifiedreward"][0], below) == ("ready", "")
    ((address, timeout),) = asked
    assert address == ("127.0.0.1", 8080)
    assert timeout <= 1


def test_a_judge_that_does_not_exist_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "clipscor"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "'clipscor'" in captured.err
    assert "clipscore" in captured.err
