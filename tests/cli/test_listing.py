"""``ls`` says of every choice what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from soarbench.cli.app import main
from soarbench.cli.listing import LISTED, lines_of
from soarbench.common.plugins import conf_folders
from soarbench.config.folders import options


@pytest.mark.parametrize("group", LISTED.values())
def test_every_choice_has_a_line_that_says_what_it_is(group: str) -> None:
    lines = lines_of(group, conf_folders())
    assert list(lines) == options(group)
    assert all(len(text) > 5 and "\n" not in text for text in lines.values()), lines


def test_lines_come_from_descriptions_judges_classes_and_comments(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method/mine.yaml").write_text(
        "# Mine, of my thesis. Not published.\nmethod: null\n"
    )
    folders = conf_folders([str(tmp_path)])
    assert lines_of("method", folders)["mine"] == f"Mine, of my thesis (of conf_dir={tmp_path})"
    assert lines_of("method", folders)["sft"] == "Supervised fine-tuning"
    assert lines_of("judge", folders)["clipscore"] == "agreement of image and prompt"
    assert lines_of("task", folders)["aesthetic"] == "better-looking pictures"


def test_gpus_and_tracking_are_listed_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "tracking", "gpus"]) == 0
    text = capsys.readouterr().out
    assert "tracking (tracking=NAME)" in text
    assert "  h100-80gb     80 GB, 989 TFLOP/s in bf16\n" in text


def test_a_file_gets_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "grid", "budgets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "grids (grid=NAME)"
    assert len(lines) == 3 + len(options("grid")) + len(options("budget"))
