"""The broad, noisy pictures everything in the laboratory is trained on, drawn once and mapped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from soarbench.lab.world.grammar import training_sample
from soarbench.lab.world.scenes import IMAGE_SIZE, render


@dataclass(frozen=True)
class DrawnData:
    """Pictures, (N, 64, 64, 3) and memory-mapped, and N captions, a tenth of which is wrong."""

    pixels: NDArray[np.uint8]
    captions: list[str]


def draw_data(folder: Path, num_pictures: int, seed: int) -> DrawnData:
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
