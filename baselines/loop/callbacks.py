"""Callbacks that average the weights and keep checkpoints and snapshots whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from baselines.loop.checkpoints import (
    EMA_FILE,
    atomic_directory,
    checkpoint_path,
    mark_complete,
    snapshot_path,
)
from baselines.loop.sharding import gathered, local, scattered
from baselines.loop.weights import save_transformer


class EmaCallback(TrainerCallback):
    """Averages the trained weights after updates and keeps the average in every checkpoint.

    ``decay`` is the largest: diffusers warms it up as (1 + n) / (10 + n) over n averagings, which
    are ``every`` updates apart. ``resume_from`` is a checkpoint whose average is continued.
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

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the module holds the averaged weights."""
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)
        try:
            yield
        finally:
            self.ema.restore(self.parameters)

    # The Trainer moves parameters to the device, and cuts them into shards, after this was made.
    @override
    def on_train_begin(self, args: TrainingArguments, *_: Any, **__: Any) -> None:
        trained = self._trained()
        self.parameters = [local(parameter) for parameter in trained]
        pairs = zip(self.ema.shadow_params, trained, strict=True)
        self.ema.shadow_params = [scattered(average, like) for average, like in pairs]
        self.ema.to(device=args.device)

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.global_step % self.every == 0:
            self.ema.step(self.parameters)

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        kept: dict[str, Any] = dict(self.ema.state_dict())
        # Whole averages, so that another number of processes can go on from them. Gathering is
        # collective: every process takes part, though one writes.
        parts = zip(kept["shadow_params"], self._trained(), strict=True)
        kept["shadow_params"] = [gathered(part, like) for part, like in parts]
        if args.should_save:
            folder = checkpoint_path(Path(str(args.output_dir)), state.global_step)
            torch.save(kept, folder / EMA_FILE)


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once every file of it is written; must be the last with ``on_save``."""

    # Takes the place of the Trainer's save_total_limit, which removes the old checkpoint before the
    # new one is marked: a kill between the two would leave none.
    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if args.should_save:
            mark_complete(checkpoint_path(Path(str(args.output_dir)), state.global_step))


@dataclass(eq=False)
class LogWindow(TrainerCallback):
    """Logs means over the same updates, wherever checkpoints are written and a run is resumed.

    ``reopen`` puts back what the checkpoint held, once the Trainer has begun with an empty window.
    """

    reopen: Callable[[], None]

    @override
    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.reopen()

    # The Trainer would end without telling the updates after the last logged point.
    @override
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        control.should_log = control.should_log or state.global_step >= state.max_steps


@dataclass(eq=False)
class Snapshots(TrainerCallback):
    """Keeps the weights to be evaluated after given steps: ``ema``'s, where there is one."""

    steps: Sequence[int]
    model: nn.Module
    ema: EmaCallback | None

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.global_step not in self.steps:
            return
        # Every process takes part to the end, as gathering shards needs.
        target = snapshot_path(Path(str(args.output_dir)), state.global_step)
        with args.main_process_first(local=False, desc="looking for the snapshot"):
            exists = target.exists()
        if exists:
            return  # of the run before it was resumed: the same bits
        is_main = bool(args.should_save)
        weights = contextlib.nullcontext() if self.ema is None else self.ema.averaged()
        place = atomic_directory(target) if is_main else contextlib.nullcontext(target)
        with weights, place as unfinished:
            save_transformer(self.model, unfinished, is_main=is_main)
