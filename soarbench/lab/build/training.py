"""What build stages train on, and their resumable run on ``transformers.Trainer``."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from baselines.loop.callbacks import EmaCallback, MarkComplete
from baselines.loop.checkpoints import last_complete_checkpoint
from baselines.loop.progress import ProgressCallback
from soarbench.lab.world.grammar import training_sample
from soarbench.lab.world.scenes import IMAGE_SIZE, render

#: Drawn for all stages.
NUM_PICTURES = 60_000
Row = dict[str, Tensor]


@dataclass(frozen=True)
class DrawnData:
    """Pictures, (N, 64, 64, 3) and memory-mapped, and N captions, a tenth of them wrong."""

    pixels: NDArray[np.uint8]
    captions: list[str]


def draw_data(folder: Path, num_pictures: int = NUM_PICTURES, seed: int = 7) -> DrawnData:
    """Draw the pictures (or map those already drawn) under ``folder``."""
    pixels_path, rows_path = folder / "pixels.npy", folder / "captions.json"
    if not rows_path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shape = (num_pictures, IMAGE_SIZE, IMAGE_SIZE, 3)
        pixels = np.lib.format.open_memmap(pixels_path, "w+", np.uint8, shape)
        rows = []
        for index in range(num_pictures):
            sample = training_sample(np.random.default_rng((seed, index)))
            pixels[index] = render(sample.scene)
            # The true phrase is for people who look for the wrong captions.
            rows.append((sample.caption, sample.composition.phrase))
        pixels.flush()
        # After the pictures, since it says that they are there.
        rows_path.write_text(json.dumps(rows))
    captions = [caption for caption, _ in json.loads(rows_path.read_text())]
    return DrawnData(np.load(pixels_path, mmap_mode="r"), captions)


@dataclass(frozen=True, kw_only=True)
class StageRecipe:
    """Hyper-parameters of one build stage: AdamW, a cosine after the warm-up, 0 for no average."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.01
    ema_decay: float = 0.0
    save_steps: int = 250
    seed: int = 0


class IndexedDataset(Dataset[Row]):
    """A data set whose row is a pure function of its index, so that resuming repeats nothing."""

    def __init__(self, length: int, row: Callable[[int], Row]) -> None:
        self.length = length
        self.row = row

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Row:
        return self.row(index)


def _arguments(recipe: StageRecipe, folder: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        adam_beta2=0.99,
        max_grad_norm=1.0,
        save_steps=recipe.save_steps,
        logging_steps=50,
        seed=recipe.seed,
        # Or it reports to whatever tracker is installed.
        report_to="none",
        disable_tqdm=True,
        # The Trainer looks for columns in a forward's signature, and our rows are made to fit.
        remove_unused_columns=False,
        # Pinning without a GPU warns at every start.
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def train_stage(
    module: nn.Module, dataset: Dataset[Row], recipe: StageRecipe, folder: Path
) -> None:
    """Train ``module`` in place, from its last checkpoint in ``folder`` on.

    Its forward takes a batch of rows by name and returns ``{"loss": ...}``.
    """
    resume_from = last_complete_checkpoint(folder)
    progress = ProgressCallback(description=folder.name)
    callbacks: list[TrainerCallback] = [progress]
    ema = None
    if recipe.ema_decay > 0:
        ema = EmaCallback(module, recipe.ema_decay, resume_from=resume_from)
        callbacks.append(ema)
    # Last: a checkpoint is complete when the average is in it, too.
    callbacks.append(MarkComplete())
    trainer = Trainer(
        module, _arguments(recipe, folder), train_dataset=dataset, callbacks=callbacks
    )
    # Prints every log as a dictionary into the progress bar.
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
    finally:
        progress.close()
    if ema is not None:
        ema.ema.copy_to(ema.parameters)


def train_on_draws(
    module: nn.Module,
    recipe: StageRecipe,
    folder: Path,
    count: int,
    row: Callable[[int, Generator], Row],
) -> None:
    """Train on rows that are each about one of ``count`` things and what ``row`` draws for it."""

    def drawn(index: int) -> Row:
        # A seed's own billion: no stage is as long, so that no two share a generator.
        generator = Generator().manual_seed(recipe.seed * 10**9 + index)
        return row(int(torch.randint(count, (), generator=generator)), generator)

    rows = IndexedDataset(recipe.steps * recipe.batch_size, drawn)
    train_stage(module, rows, recipe, folder)
