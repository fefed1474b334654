"""Callbacks that average the weights and keep checkpoints and snapshots whole."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from diffusers.training_utils import EMAModel
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from baselines.loop.checkpoints import (
    EMA_FILE,
    CheckpointWriter,
    checkpoint_path,
    new_snapshot,
    snapshot_damage,
    snapshot_path,
)
from baselines.loop.sharding import gathered, local, scattered
from baselines.loop.weights import on_host, save_transformer

log = logging.getLogger(__name__)


class EmaCallback(TrainerCallback):
    """Averages the trained weights after updates and keeps the average in every checkpoint.

    ``decay`` is the largest: diffusers warms it up, as (1 + n) / (10 + n) after n averagings, which
    are ``every`` updates apart, and 0 at the first, which takes the weights as they are.
    ``resume_from`` is a checkpoint whose average is continued.
    """

    #: Of a checkpoint.
    file = EMA_FILE

    def __init__(
        self,
        module: nn.Module,
        decay: float,
        *,
        every: int = 1,
        resume_from: Path | None = None,
        writer: CheckpointWriter | None = None,
    ) -> None:
        self.module = module
        self.writer = writer or CheckpointWriter()
        self.parameters = self._trained()
        self.ema = EMAModel(self.parameters, decay=decay)
        self.every = every
        if resume_from is not None:
            state = torch.load(resume_from / self.file, map_location="cpu", weights_only=True)
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
            self.writer.put(partial(torch.save, on_host(kept), folder / self.file))


@dataclass(eq=False)
class SaveRhythm(TrainerCallback):
    """Asks for a checkpoint every ``steps`` updates, about every ``minutes``, and at the end.

    Checkpoints lie at multiples of ``unit`` updates. The main process's clock decides. It is read
    at a few updates, each half as far from the next checkpoint as the one before, which all
    processes know beforehand: in between none waits for another.
    """

    steps: int | None
    minutes: float | None
    unit: int
    clock: Callable[[], float] = time.monotonic

    def _begin(self, step: int) -> None:
        self._last_step, self._last_time = step, self.clock()
        self._next_look = step + self.unit

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any
    ) -> None:
        self._begin(state.global_step)

    @override
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        step = state.global_step
        is_due = self.steps is not None and step % self.steps == 0
        control.should_save = is_due or step >= state.max_steps or self._is_time(step)

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        self._begin(state.global_step)

    def _is_time(self, step: int) -> bool:
        if self.minutes is None or step < self._next_look:
            return False
        (updates,) = broadcast_object_list([self._updates_to_wait(step, 60 * self.minutes)])
        self._next_look = step + updates
        return bool(updates == 0)

    def _updates_to_wait(self, step: int, seconds: float) -> int:
        """Updates until the clock is read again; 0 when it is time for a checkpoint."""
        spent = self.clock() - self._last_time
        if spent >= seconds:
            return 0
        # Half of what the past rate says: the next updates may be slower.
        updates = (step - self._last_step) * (seconds - spent) / max(2 * spent, 1e-3)
        return max(1, int(updates / self.unit)) * self.unit


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once every file of it is written; must be the last with ``on_save``.

    ``save_log`` puts into it what was logged so far.
    """

    def __init__(
        self,
        writer: CheckpointWriter | None = None,
        save_log: Callable[[Path], object] = lambda _: None,
    ) -> None:
        self.writer = writer or CheckpointWriter()
        self.save_log = save_log

    @override
    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.writer.check()

    # Takes the place of the Trainer's save_total_limit, which removes the old checkpoint before the
    # new one is marked: a kill between the two would leave none.
    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if args.should_save:
            folder = checkpoint_path(Path(str(args.output_dir)), state.global_step)
            self.save_log(folder)
            self.writer.finish(folder)


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
    """Keeps the weights to be evaluated after given steps: ``ema``'s, where there is one.

    They are rounded to ``dtype``, if one is given; ``allowed`` is asked before one appears, and may
    raise.
    """

    steps: Sequence[int]
    model: nn.Module
    ema: EmaCallback | None
    dtype: torch.dtype | None
    allowed: Callable[[], None] = lambda: None

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.global_step not in self.steps:
            return
        # Every process takes part to the end, as gathering shards needs.
        target = snapshot_path(Path(str(args.output_dir)), state.global_step)
        is_main = bool(args.should_save)
        (is_there,) = broadcast_object_list([is_main and _is_whole(target)])
        if is_there:
            return  # of the run before it was resumed: the same bits
        weights = contextlib.nullcontext() if self.ema is None else self.ema.averaged()
        unfinished = contextlib.nullcontext(target)
        place = new_snapshot(target, self.allowed) if is_main else unfinished
        with weights, place as folder:
            save_transformer(self.model, folder, dtype=self.dtype, is_main=is_main)


def _is_whole(snapshot: Path) -> bool:
    """Whether a snapshot is there; a damaged one is removed."""
    if snapshot.is_dir() and (fault := snapshot_damage(snapshot)):
        log.warning("%s %s: it is written again", snapshot, fault)
        shutil.rmtree(snapshot)
    return snapshot.is_dir()
