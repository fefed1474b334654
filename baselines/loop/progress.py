"""Progress of training on the console: a bar with the remaining time, or plain lines in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

# The loop's key, and the plain Trainer's.
_LOSS_KEYS = ("train/loss", "loss")


def _bar(console: Console) -> Progress:
    """The columns of the bar."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
    )


class ProgressCallback(TrainerCallback):
    """Shows updates done, the current loss and the time that is left.

    Args:
        console: Where to; where it is no terminal, plain lines are printed instead of a bar.
        description: What is being trained.
        seconds_between_lines: Interval of plain lines.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        description: str = "training",
        seconds_between_lines: float = 10.0,
    ) -> None:
        self.console = Console(stderr=True) if console is None else console
        self.description = description
        self.seconds_between_lines = seconds_between_lines
        self._loss = math.nan
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._first_step = 0
        self._started = self._last_line = 0.0

    def close(self) -> None:
        """Give the terminal back; safe to call twice, and needed when training is interrupted."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @override
    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Start the bar where a resumed run left off."""
        self._first_step = state.global_step
        self._started = self._last_line = time.monotonic()
        if state.is_world_process_zero and self.console.is_terminal:
            self._progress = _bar(self.console)
            self._task = self._progress.add_task(
                self.description, total=state.max_steps, completed=state.global_step, loss="-"
            )
            self._progress.start()

    @override
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Remember the current loss."""
        for key in _LOSS_KEYS:
            self._loss = (logs or {}).get(key, self._loss)

    @override
    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Advance the bar, or print a line if the last one is old enough."""
        if self._progress is not None:
            self._progress.update(self._task, completed=state.global_step, loss=_number(self._loss))
        elif state.is_world_process_zero:
            now = time.monotonic()
            if now - self._last_line >= self.seconds_between_lines:
                self._last_line = now
                self.console.print(self.line(state, now), highlight=False, soft_wrap=True)

    @override
    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Stop the bar."""
        self.close()

    def line(self, state: TrainerState, now: float) -> str:
        """``training: 120/500 updates, loss 0.1234, 0:03:10 left``."""
        done = state.global_step - self._first_step
        per_update = (now - self._started) / max(done, 1)
        time = timedelta(seconds=round(per_update * (state.max_steps - state.global_step)))
        count = f"{state.global_step}/{state.max_steps} updates"
        return f"{self.description}: {count}, loss {_number(self._loss)}, {time} left"


def _number(value: float) -> str:
    """Four significant digits, or a dash before there is a value."""
    return "-" if math.isnan(value) else f"{value:.4g}"
