"""The old policy: an average of the trained weights that methods ask, in the model's own place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerState, TrainingArguments
from typing_extensions import override

from baselines.base import Condition, VelocityModel
from baselines.loop.callbacks import EmaCallback
from baselines.loop.checkpoints import OLD_POLICY_FILE, CheckpointWriter
from baselines.loop.sharding import reshard


class OldPolicy(EmaCallback):
    """Moves towards the trained weights when a collection's updates are over.

    ``decay`` says what share of it stays, by the number of updates since the start; ``every`` is
    the method's updates a collection. It starts as the model is, and every checkpoint holds it.
    """

    file = OLD_POLICY_FILE

    def __init__(
        self,
        module: nn.Module,
        decay: Callable[[int], float],
        *,
        every: int,
        resume_from: Path | None = None,
        writer: CheckpointWriter | None = None,
    ) -> None:
        super().__init__(module, 0.0, every=every, resume_from=resume_from, writer=writer)
        self.decay = decay

    @override
    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.global_step % self.every:
            return
        stays = self.decay(state.global_step)
        for old, trained in zip(self.ema.shadow_params, self.parameters, strict=True):
            old.mul_(stays).add_(trained.detach(), alpha=1 - stays)

    def velocity(self, velocity: VelocityModel) -> VelocityModel:
        """The old policy of a model that ``velocity`` asks."""

        @torch.no_grad()
        def old(latents: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            with self._in_place():
                return velocity(latents, sigma, condition)

        return old

    @contextlib.contextmanager
    def _in_place(self) -> Iterator[None]:
        """Inside the block the module holds the old weights, and this the trained ones."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    # Not a second model: of a full fine-tune it would double the weights, and of an adapter or of
    # shards it would have to be wrapped as the first.
    @torch.no_grad()
    def _exchange(self) -> None:
        # What a forward gathered or cast of the weights that leave would stand for those that come.
        reshard(self.module)
        for held, parameter in zip(self.ema.shadow_params, self.parameters, strict=True):
            # By ``data``: the bits come back before a backward asks for them, so that autograd
            # need not take the weights for changed.
            place = parameter.data
            leaving = place.clone()
            place.copy_(held)
            held.copy_(leaving)
        torch.clear_autocast_cache()
