"""Prompts are encoded once: the text encoders are loaded for those that are new, then freed."""

from __future__ import annotations

import gc
import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from evaluators.devices import on_device
from soarbench.common.progress import Pace
from soarbench.models.base import ModelConfig, PromptEncoder
from soarbench.models.tensor_store import TensorStore

log = logging.getLogger(__name__)
#: Prompts encoded at once, always: a matrix product may round differently for another batch size,
#: and a prompt's condition must not depend on the company it is encoded in.
BATCH = 16
#: Prompts of one file; SD3.5's conditions take 2.7 MB each.
_PER_FILE = 4 * BATCH


class PromptStore:
    """Conditions of prompts, on disk and memory-mapped; each kind of encoder has its own folder."""

    def __init__(self, config: ModelConfig, device: torch.device, folder: Path) -> None:
        self.config = config
        self.device = device
        self.store = TensorStore(folder / config.encoder_digest())

    def encode(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Conditions, batch first; text encoders are loaded only if a prompt is new."""
        self.fill(prompts)
        rows = [self.row(prompt) for prompt in prompts]
        return {n: on_device(torch.stack([row[n] for row in rows]), self.device) for n in rows[0]}

    def row(self, prompt: str) -> dict[str, Tensor]:
        """The condition of a prompt that was encoded before, on the CPU."""
        return self.store[prompt_key(prompt)]

    def fill(self, prompts: Iterable[str]) -> None:
        """Encode the prompts that are new; ``UserError`` where encoders cannot be loaded."""
        by_key = {prompt_key(prompt): prompt for prompt in prompts}
        keys = [key for key in by_key if key not in self.store]
        if not keys:
            return
        encoders = self.config.load_encoders(self.device)
        pace = Pace("encoded prompts", len(keys), log.info)
        for start in range(0, len(keys), _PER_FILE):
            part = keys[start : start + _PER_FILE]
            self.store.add(part, self._encoded(encoders, [by_key[key] for key in part]))
            pace.advance(len(part))
        pace.finish()
        # T5 alone takes 9.5 GB in bfloat16, which the transformer and its training need next.
        del encoders
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _encoded(self, encoders: PromptEncoder, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Conditions in batches of one size, the last one filled up with empty prompts."""
        parts = []
        for start in range(0, len(prompts), BATCH):
            batch = list(prompts[start : start + BATCH])
            filled = batch + [""] * (BATCH - len(batch))
            encoded = encoders.encode(filled)
            parts.append({name: value[: len(batch)].cpu() for name, value in encoded.items()})
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def prompt_key(prompt: str) -> str:
    """Key of a prompt in a store."""
    return hashlib.sha256(prompt.encode()).hexdigest()
