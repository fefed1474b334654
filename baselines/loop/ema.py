"""Averaged weights, on diffusers' ``EMAModel``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from baselines.loop.checkpoints import EMA_FILE, checkpoint_path
from baselines.loop.sharding import gathered, local, scattered


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
        self.module = module
        self.parameters = self._trained()
        self.ema = EMAModel(self.parameters, decay=decay)
        self.every = every
        if resume_from is not None:
            state = torch.load(resume_from / EMA_FILE, map_location="cpu", weights_only=True)
            self.ema.load_state_dict(state)

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]

    def _state(self) -> dict[str, Any]:
        """What a checkpoint keeps: whole averages, whoever holds which part of them."""
        state: dict[str, Any] = dict(self.ema.state_dict())
        parts = zip(state["shadow_params"], self._trained(), strict=True)
        return state | {"shadow_params": [gathered(part, like) for part, like in parts]}

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
        """Follow the parameters to the device, and to the shards, that the Trainer made of them."""
        trained = self._trained()
        self.parameters = [local(parameter) for parameter in trained]
        pairs = zip(self.ema.shadow_params, trained, strict=True)
        self.ema.shadow_params = [scattered(average, like) for average, like in pairs]
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
        kept = self._state()
        if args.should_save:
            folder = checkpoint_path(Path(str(args.output_dir)), state.global_step)
            torch.save(kept, folder / EMA_FILE)
