"""What a grid writes to the disk, as arithmetic on counted sizes; imports no framework."""

from __future__ import annotations

import math
from collections.abc import Mapping

from soarbench.config.settings import SuiteConfig
from soarbench.evaluation.selection import num_images
from soarbench.grid.cell import CellConfig
from soarbench.models.base import Architecture, ModelConfig, UnknownArchitecture
from soarbench.planning.memory_and_time import BYTES, MASTER_BYTES, OPTIMIZER_BYTES

#: Bytes a pixel of an 8-bit RGB image in PNG's lossless compression: those of the laboratory at
#: 64 px took 1.8, noise takes 3.
_PNG_BYTES = 2.0


def architecture_of(cell: CellConfig) -> Architecture | None:
    """The sizes of a cell's model; None where a download is needed to tell."""
    try:
        return cell.model.architecture()
    except UnknownArchitecture:
        return None


def weight_bytes(cell: CellConfig) -> tuple[float, float] | None:
    """A snapshot of a trained cell, and a checkpoint of it; None where sizes are not known."""
    sizes = architecture_of(cell)
    assert cell.optim is not None
    if sizes is None:
        return None
    lora = cell.lora
    numbers = sizes.stored_parameters if lora is None else sizes.adapter_parameters(lora)
    # Checkpoints hold what is trained in float32; snapshots are of the model's own type.
    copies = MASTER_BYTES * (1 if cell.ema is None else 2)
    moments = OPTIMIZER_BYTES[cell.optim.optimizer]
    return (BYTES[cell.model.dtype] * numbers, (copies + moments) * numbers) if numbers else None


def training_bytes(cell: CellConfig, *, keeps_last: bool) -> tuple[float, float] | None:
    """What training a cell leaves, and what it takes at its peak beside that; None: not known.

    ``keeps_last``: earlier snapshots are removed once they are measured.
    """
    sizes = weight_bytes(cell)
    if sizes is None:
        return None
    snapshot, checkpoint = sizes
    kept = 1 if keeps_last else len(cell.steps)
    assert cell.training is not None
    # The new one is read back before the oldest goes.
    checkpoints = cell.training.keep_checkpoints + 1
    return kept * snapshot, (len(cell.steps) - kept) * snapshot + checkpoints * checkpoint


def images_bytes(cell: CellConfig, suite: SuiteConfig) -> float:
    """Images of a suite that a cell draws at one step."""
    return _PNG_BYTES * cell.model.resolution**2 * num_images(suite)


def latents_bytes(cell: CellConfig) -> float | None:
    """Encoded images of a cell's training set; None where only reading the set tells."""
    sizes, data = architecture_of(cell), cell.data
    if sizes is None or data is None or data.most_rows is None:
        return None
    shape = sizes.latent_shape(cell.model.resolution)
    return float(MASTER_BYTES * math.prod(shape) * data.most_rows) * data.keeps_latents


def prompts_bytes(cell: CellConfig, model: ModelConfig, num_prompts: int) -> float | None:
    """Prompts as a cell's model, or what is trained of it, reads them; None: sizes not known."""
    sizes = architecture_of(cell)
    if sizes is None:
        return None
    shapes: Mapping[str, tuple[int, ...]] = sizes.condition_shapes(model.max_sequence_length)
    return float(BYTES[model.dtype] * num_prompts * sum(map(math.prod, shapes.values())))
