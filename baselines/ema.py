"""Averaged weights, on diffusers' ``EMAModel``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from baselines.checkpoints import EMA_FILE, checkpoint_path


class EmaCallback(TrainerCallback):
    """Averages the trained weights after updates and keeps the average in every checkpoint.

    Args:
        module: What is trained; its trainable parameters are averaged.
        decay: Largest decay; diffusers warms it up as (1 + n) / (10 + n) over n averagings.
        every: Updates between two averagings.
        resume_from: Checkpoint whose average is continued.
    """

    def __init__(
        self, module: nn.Module, decay: float, *, every: int = 1, resume_from: Path | None = None
    ) -> None:
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.ema = EMAModel(self.parameters, decay=decay)
        self.every = every
        if resume_from is not None:
            state = torch.load(resume_from / EMA_FILE, map_location="cpu", weights_only=True)
            self.ema.load_state_dict(state)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the module holds the averaged weights."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            yield
        finally:
            self.ema.restore(self.parameters)

    @override
    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Follow the parameters to the device that the Trainer moved them to."""
        self.ema.to(device=args.device)

    @override
    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Average."""
        if state.global_step % self.every == 0:
            self.ema.step(self.parameters)

    @override
    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Keep the average in the checkpoint."""
        if args.should_save:
            folder = checkpoint_path(Path(str(args.output_dir)), state.global_step)
            torch.save(self.ema.state_dict(), folder / EMA_FILE)
