"""Small sets of images for tests, and judges of them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from evaluators.base import Sample

SIZES = ((64, 64), (100, 80), (80, 130))


def picture(number: int, size: tuple[int, int] | None = None) -> Image.Image:
    """Noise around a grey that grows with the number."""
    width, height = size or SIZES[number % len(SIZES)]
    noise = np.random.default_rng(number).integers(0, 30, (height, width, 3))
    return Image.fromarray((noise + 10 * number).astype(np.uint8))


def write_set(
    folder: Path, count: int = 6, changes: Mapping[int, Mapping[str, object]] | None = None
) -> Path:
    """A JSON Lines set of pictures in ``images/``; ``changes`` replaces keys of some rows."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        picture(number).save(folder / f"images/{number}.png")
        row: dict[str, object] = {
            "image": f"images/{number}.png",
            "caption": f"a drawing number {number}",
            "scores": {"beauty": float(number)},
        }
        rows.append(row | dict((changes or {}).get(number, {})))
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def write_shards(folder: Path, count: int = 6, per_shard: int = 4) -> Path:
    """WebDataset shards of the same pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, count, per_shard):
        with tarfile.open(folder / f"part-{first:03d}.tar", "w") as shard:
            for number in range(first, min(first + per_shard, count)):
                stream = io.BytesIO()
                picture(number).save(stream, "PNG")
                facts = {
                    "caption": f"a drawing number {number}",
                    "scores": {"beauty": float(number)},
                }
                for suffix, content in (
                    ("png", stream.getvalue()),
                    ("json", json.dumps(facts).encode()),
                ):
                    entry = tarfile.TarInfo(f"{number:04d}.{suffix}")
                    entry.size = len(content)
                    shard.addfile(entry, io.BytesIO(content))
    return folder


class CountingJudge:
    """Mean pixel; counts what it was asked and fails on request."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.num_scored = 0
        self.stop_after = stop_after

    def __call__(self, samples: Sequence[Sample]) -> list[float]:
        if self.stop_after is not None and self.num_scored >= self.stop_after:
            raise KeyboardInterrupt
        self.num_scored += len(samples)
        return [float(np.asarray(sample.image).mean()) for sample in samples]
