"""The remaining time of a grid."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from rich.console import Console

from soarbench.common.logs import set_levels
from soarbench.common.progress import GridProgress, Pace, SentProgress, Update

KEY, OTHER = ("a", "train"), ("b", "train")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def progress_with(seconds: dict[tuple[str, str], float]) -> tuple[GridProgress, Clock, io.StringIO]:
    clock, stream = Clock(), io.StringIO()
    return GridProgress(Console(file=stream, width=200), seconds, clock), clock, stream


def test_the_estimate_is_scaled_by_the_speed_so_far() -> None:
    progress, clock, _ = progress_with({KEY: 100.0, OTHER: 300.0})
    assert progress.remaining() == 400.0
    with progress.stage(KEY, "a: train", 10) as stage:
        clock.now = 20.0
        stage.advance()  # 10 estimated seconds took 20
        assert progress.remaining() == pytest.approx(780.0)
    assert progress.remaining() == pytest.approx(300.0 * 20.0 / 100.0)


def test_parts_that_were_done_before_count_neither_as_left_nor_as_speed() -> None:
    progress, clock, _ = progress_with({KEY: 100.0})
    with progress.stage(KEY, "a: train", 10) as stage:
        stage.skip(8)
        assert progress.remaining() == pytest.approx(20.0)
        clock.now = 30.0
        stage.advance()
        assert progress.remaining() == pytest.approx(30.0)


def test_a_failed_job_is_no_longer_left() -> None:
    progress, _, _ = progress_with({KEY: 100.0, OTHER: 300.0})
    progress.forget(OTHER)
    assert progress.remaining() == 100.0


def test_a_log_file_gets_a_line_a_stage_and_then_one_now_and_then() -> None:
    progress, clock, stream = progress_with({KEY: 100.0})
    with progress.shown(), progress.stage(KEY, "a: train", 100) as stage:
        for second in range(100):
            clock.now = float(second + 1)
            stage.advance()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[  0%, 0:01:40 left] a: train 0/100"
    assert 5 <= len(lines) <= 8
    assert "[ 15%, 0:01:25 left] a: train 15/100" in lines


def test_a_terminal_gets_bars() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=True)
    progress = GridProgress(console, {KEY: 10.0}, Clock())
    with progress.shown(), progress.stage(KEY, "soar: train", 4) as stage:
        stage.reach(2, "loss 0.5")
    assert "whole grid" in stream.getvalue()
    assert "soar: train" in stream.getvalue()


def test_long_work_is_told_now_and_then_and_at_the_end() -> None:
    clock, lines = Clock(), []
    pace = Pace("scored images", 100, lines.append, clock=clock)
    pace.skip(40)
    for _ in range(4):
        clock.now += 5.0
        pace.advance(10)
    assert lines == ["scored images: 70 of 100, 2.0 a second, 15 s to go"]
    pace.finish()
    assert lines[1] == "scored images: 80 of 100, 2.0 a second, 10 s to go"
    short = Pace("rows", None, lines.append, clock=clock)
    short.advance(5)
    short.finish()
    assert len(lines) == 2


def test_log_lines_stand_above_the_bars_and_elsewhere_in_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, stream = logging.getLogger(), io.StringIO()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    set_levels()
    console = Console(file=stream, width=100, force_terminal=True)
    with GridProgress(console, {KEY: 10.0}).shown():
        logging.getLogger("soarbench.data").info("1200 pictures are kept")
        # Rich prints what it was given when the line is over.
        sys.stderr.flush()
    # A line of its own, at the left margin, with the bars drawn again below it.
    line = next(one for one in stream.getvalue().split("\n") if "1200 pictures" in one)
    assert line.endswith("\x1b[2K1200 pictures are kept")
    assert "1200" not in capsys.readouterr().err
    logging.getLogger("soarbench.data").info("said afterwards")
    assert capsys.readouterr().err == "said afterwards\n"


def test_work_that_waits_for_another_launch_says_that_it_lives() -> None:
    clock, sent = Clock(), list[Update]()
    progress = SentProgress(sent.append, clock)
    for _ in range(30):
        progress.wait(KEY, "train, which another launch is at")
        clock.now += 0.1
    # Once a second.
    assert [one.description for one in sent] == ["train, which another launch is at"] * 3
    with progress.stage(KEY, "train", 4) as stage:
        stage.advance()
        clock.now += 50
        progress.alive()
        progress.alive()
    assert [(one.description, one.position) for one in sent[3:]] == [
        ("train", 0), ("train", 0), ("train", 4)
    ]  # fmt: skip
    shown, _, stream = progress_with({KEY: 100.0})
    for one in sent:
        shown.follow(one)
    assert stream.getvalue().count("train, which another launch is at 0/1") == 1
    assert shown.remaining() == 0.0
