import io
import re

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from baselines.loop.checkpoints import Counters
from baselines.loop.ledger import Ledger, LossWindow, Share
from baselines.loop.progress import ProgressCallback


def play(console, *, first=0, last=4, seconds_between_lines=0.0):
    """The events of a run of 8 updates, from ``first`` to ``last``."""
    callback = ProgressCallback(
        console, description="sft", seconds_between_lines=seconds_between_lines
    )
    arguments = TrainingArguments(use_cpu=True, report_to="none")
    state, control = TrainerState(max_steps=8, global_step=first), TrainerControl()
    callback.on_train_begin(arguments, state, control)
    for step in range(first + 1, last + 1):
        state.global_step = step
        callback.on_step_end(arguments, state, control)
        callback.on_log(arguments, state, control, logs={"train/loss": 1 / step})
    return callback


def test_plain_lines_where_the_output_is_no_terminal():
    output = io.StringIO()
    play(Console(file=output, force_terminal=False, width=40)).close()
    lines = output.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("sft: 1/8 updates, loss -, ")
    assert re.fullmatch(r"sft: 4/8 updates, loss 0\.3333, \d:\d\d:\d\d left", lines[3])


def test_plain_lines_keep_their_distance():
    output = io.StringIO()
    play(Console(file=output, force_terminal=False), seconds_between_lines=60).close()
    assert output.getvalue() == ""


def test_remaining_time_counts_only_the_updates_of_this_session(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("baselines.loop.progress.time.monotonic", lambda: now[0])
    callback = play(Console(file=io.StringIO(), force_terminal=False), first=2, last=2)
    line = callback.line(TrainerState(max_steps=8, global_step=4), now=120.0)
    assert line == "sft: 4/8 updates, loss -, 0:00:40 left"


@pytest.mark.parametrize("closed_by", ["close", "on_train_end"])
def test_a_terminal_gets_a_bar_and_gets_its_cursor_back(closed_by):
    output = io.StringIO()
    callback = play(Console(file=output, force_terminal=True, width=100))
    if closed_by == "close":
        callback.close()
    callback.on_train_end(None, TrainerState(), TrainerControl())
    text = output.getvalue()
    assert "4/8" in text
    assert "loss" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor stays hidden"


def test_a_rollout_without_a_difference_still_tells_its_rewards() -> None:
    ledger = Ledger()
    ledger.add([Share({}, {"rollout/reward_mean": 0.5}, 3.0, 8)], weight=0.0, images=4)
    assert ledger.close_window() == {
        "rollout/reward_mean": 0.5,
        "images_seen": 4.0,
        "forward_equivalents": 3.0,
        "reward_calls": 8.0,
        "seconds": 0.0,
    }


def test_an_open_window_survives_a_round_trip(tmp_path) -> None:
    ledger = Ledger(Counters(seconds=0.125))
    for value in (0.1, 0.7):
        share = Share({"loss": 1.0, "part": value}, {"rollout/reward_mean": value}, 4.5, 2)
        ledger.add([share], weight=3.0, images=4)
    ledger.save(tmp_path, LossWindow(2, 1 / 3))
    loaded, losses = Ledger.load(tmp_path)
    assert losses == LossWindow(2, 1 / 3)
    assert loaded.close_window() == ledger.close_window()
