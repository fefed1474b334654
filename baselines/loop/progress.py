"""Progress of training on the console: a bar with the remaining time, or plain lines in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override


class ProgressCallback(TrainerCallback):
    """Shows updates done, the current loss and the time that is left.

    Where ``console`` is no terminal, plain lines are printed instead of a bar.
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
        self._loss = "-"
        self._progress: Progress | None = None
        self._first_step = 0
        self._started = self._last_line = 0.0

    def close(self) -> None:
        """Give the terminal back; safe to call twice."""
        # Needed when training is interrupted, where on_train_end does not come: rich has hidden
        # the cursor.
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any
    ) -> None:
        self._first_step = state.global_step
        self._started = self._last_line = time.monotonic()
        if state.is_world_process_zero and self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("loss {task.fields[loss]}"),
                TimeRemainingColumn(),
                TextColumn("left"),
                console=self.console,
            )
            self._progress.add_task(
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
        **_: Any,
    ) -> None:
        logs = logs or {}
        # The loop's key, or that of a plain Trainer, which builds the laboratory. The Trainer's
        # closing summary has neither.
        loss = logs.get("train/loss", logs.get("loss"))
        if loss is not None:
            self._loss = "-" if math.isnan(loss) else f"{loss:.4g}"

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if self._progress is not None:
            task = self._progress.task_ids[0]
            self._progress.update(task, completed=state.global_step, loss=self._loss)
        elif state.is_world_process_zero:
            now = time.monotonic()
            if now - self._last_line >= self.seconds_between_lines:
                self._last_line = now
                self.console.print(self.line(state, now), highlight=False, soft_wrap=True)

    @override
    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.close()

    def line(self, state: TrainerState, now: float) -> str:
        """``training: 120/500 updates, loss 0.1234, 0:03:10 left``."""
        # Of this session alone: a resumed run has not spent the time of the updates before it.
        done = state.global_step - self._first_step
        per_update = (now - self._started) / max(done, 1)
        remaining = timedelta(seconds=round(per_update * (state.max_steps - state.global_step)))
        count = f"{state.global_step}/{state.max_steps} updates"
        return f"{self.description}: {count}, loss {self._loss}, {remaining} left"
