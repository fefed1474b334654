"""Images of any model, scored from disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from evaluators.geneval import GenEval
from soarbench.cli import main
from soarbench.lab.draw import draw_suite


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    draw_suite(tmp_path / "drawn", images_per_prompt=1)
    return tmp_path / "drawn"


def scored(images: Path, output: Path, *more: str) -> int:
    return main(["score", "suite=lab_geneval", f"images={images}", f"output={output}", *more])


def test_scores_every_image_and_sums_up(drawn: Path, tmp_path: Path) -> None:
    assert scored(drawn, tmp_path / "out") == 0
    rows = [json.loads(x) for x in (tmp_path / "out/lab_geneval.jsonl").read_text().splitlines()]
    assert len(rows) == 50
    assert {"correct", "strict_correct", "strict_score", "reason", "fingerprint"} <= rows[0].keys()
    summary = json.loads((tmp_path / "out/summary.json").read_text())["judges"]["lab_geneval"]
    share = sum(row["correct"] for row in rows) / 50
    assert summary["numbers"]["images_correct"] == pytest.approx(share)
    assert 0.6 < share < 1.0


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
    partial = tmp_path / "parts/lab_geneval.partial.jsonl"
    assert len(partial.read_text().splitlines()) == 32
    partial.write_text(partial.read_text() + '{"sample_id": "torn')
    monkeypatch.setattr(GenEval, "score", score)
    assert scored(drawn, tmp_path / "parts") == 0
    name = "lab_geneval.jsonl"
    assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_coverage_bad_images_and_other_requests_are_one_line(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert scored(drawn, output) == 0
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    other = tmp_path / "other"
    shutil.copytree(drawn, other)
    image = other / "00003/samples/0000.png"
    cases = []
    assert scored(other, output) == 2
    cases.append(("holds scores of another request", capsys.readouterr().err))
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
    assert before == {path.name: path.read_bytes() for path in output.iterdir()}
    assert scored(other, tmp_path / "found", "coverage=found") == 0


def test_plain_folder_follows_a_prompts_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, prompts = tmp_path / "plain", tmp_path / "prompts.txt"
    folder.mkdir()
    prompts.write_text("a cat\na dog\na cat\n")
    for number in (0, 1, 10):
        Image.new("RGB", (64, 64), "red").save(folder / f"{number}.png")
    words = ["suite=drawbench", f"images={folder}", f"output={tmp_path / 'out'}"]
    words.append("judges=oracle_aesthetic")
    assert main(["score", *words]) == 2
    assert "add prompts=FILE" in capsys.readouterr().err
    assert main(["score", *words, f"prompts={prompts}"]) == 0
    lines = (tmp_path / "out/oracle_aesthetic.jsonl").read_text().splitlines()
    assert [json.loads(line)["prompt_id"] for line in lines] == ["00000", "00001", "00000"]
    (folder / "1.png").unlink()
    assert main(["score", *words, f"prompts={prompts}"]) == 2
    assert "numbers missing: 1" in capsys.readouterr().err
