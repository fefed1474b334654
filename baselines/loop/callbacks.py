"""Callbacks that keep checkpoints and snapshots whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from baselines.loop.checkpoints import checkpoint_path, mark_complete


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once every file of it is written; must be the last with ``on_save``.

    Args:
        keep: Finished checkpoints that stay; None keeps all. It takes the place of the Trainer's
            ``save_total_limit``, which removes the old checkpoint before the new one is marked.
    """

    def __init__(self, keep: int | None = 1) -> None:
        self.keep = keep

    @override
    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Mark, then remove older checkpoints."""
        if args.should_save:
            folder = Path(str(args.output_dir))
            mark_complete(checkpoint_path(folder, state.global_step), keep=self.keep)


class LogBeforeSave(TrainerCallback):
    """Closes the window of averaged metrics at each checkpoint, where a resumed run starts one."""

    @override
    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Log whenever a checkpoint is about to be saved."""
        control.should_log = control.should_log or control.should_save


class Snapshots(TrainerCallback):
    """Keeps the weights to be evaluated at given steps; must come after the averaging.

    Args:
        steps: Updates after which weights are kept.
        save: Saves those of the step it is given.
    """

    def __init__(self, steps: Sequence[int], save: Callable[[int], None]) -> None:
        self.steps = frozenset(steps)
        self.save = save

    @override
    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Save if this is one of the steps; every process takes part, as gathering shards needs."""
        if state.global_step in self.steps:
            self.save(state.global_step)
