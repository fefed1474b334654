"""Images are written by threads, while the next ones are drawn."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from soarbench.data.prompts import PromptItem
from soarbench.evaluation import drawing
from soarbench.evaluation.drawing import draw_missing, image_path

PAIRS = [(PromptItem(prompt_id=f"p/{i:05d}", prompt="p", metadata={}), 0) for i in range(10)]
FULL = OSError(28, "No space left on device")


class Counted:
    """How many images are done, and how many of those are on the disk at that moment."""

    def __init__(self, root: Path) -> None:
        self.root, self.done, self.skipped = root, 0, 0

    def advance(self, count: int = 1) -> None:
        self.done += count
        assert len(list(self.root.rglob("*.png"))) >= self.done

    def skip(self, count: int) -> None:
        self.skipped += count


def pictures(batch: Sequence[tuple[PromptItem, int]]) -> list[Image.Image]:
    """Noise by the prompt's id."""
    numbers = [int(item.prompt_id[2:]) for item, _ in batch]
    draws = [np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8) for i in numbers]
    return [Image.fromarray(pixels) for pixels in draws]


def paths(root: Path) -> list[Path]:
    return [image_path(root, item.prompt_id, index) for item, index in PAIRS]


def test_every_image_is_on_disk_and_as_pillow_writes_it(tmp_path: Path) -> None:
    progress = Counted(tmp_path)
    draw_missing(PAIRS, tmp_path, 4, lambda: pictures, progress)
    for path, image in zip(paths(tmp_path), pictures(PAIRS), strict=True):
        stream = io.BytesIO()
        image.save(stream, "PNG")
        assert path.read_bytes() == stream.getvalue()
    assert (progress.done, progress.skipped) == (10, 0)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_batch_is_drawn_while_the_one_before_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_second_drawn, write, waited = threading.Event(), drawing.write_atomically, []

    def slow(path: Path, save: object) -> None:
        waited.append(is_second_drawn.wait(10))
        write(path, save)

    def draw(batch: Sequence[tuple[PromptItem, int]]) -> list[Image.Image]:
        if batch[0] == PAIRS[4]:
            is_second_drawn.set()
        # At most a batch waits: when the third is drawn, the first is on the disk.
        if batch[0] == PAIRS[8]:
            assert all(path.is_file() for path in paths(tmp_path)[:3])
        return pictures(batch)

    monkeypatch.setattr(drawing, "write_atomically", slow)
    draw_missing(PAIRS, tmp_path, 4, lambda: draw, Counted(tmp_path))
    assert waited == [True] * 10


def test_a_full_disk_ends_the_drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, batches = drawing.write_atomically, []

    def full(path: Path, save: object) -> None:
        if path == paths(tmp_path)[5]:
            raise FULL
        write(path, save)

    def draw(batch: Sequence[tuple[PromptItem, int]]) -> list[Image.Image]:
        batches.append(len(batch))
        return pictures(batch)

    monkeypatch.setattr(drawing, "write_atomically", full)
    progress = Counted(tmp_path)
    with pytest.raises(OSError, match="No space left"):
        draw_missing(PAIRS, tmp_path, 2, lambda: draw, progress)
    assert progress.done == 5
    assert len(batches) < 6


def test_an_interruption_loses_unwritten_images_alone(tmp_path: Path) -> None:
    def draw(batch: Sequence[tuple[PromptItem, int]]) -> list[Image.Image]:
        if batch[0] == PAIRS[8]:
            deadline = time.monotonic() + 120
            while not all(path.is_file() for path in paths(tmp_path)[:8]):
                assert time.monotonic() < deadline  # the threads write what they have
                time.sleep(0.01)
            raise KeyboardInterrupt
        return pictures(batch)

    with pytest.raises(KeyboardInterrupt):
        draw_missing(PAIRS, tmp_path, 4, lambda: draw, Counted(tmp_path))
    assert [path.is_file() for path in paths(tmp_path)] == [True] * 8 + [False] * 2
    progress, drawn = Counted(tmp_path), []

    def again(batch: Sequence[tuple[PromptItem, int]]) -> list[Image.Image]:
        drawn.extend(batch)
        return pictures(batch)

    draw_missing(PAIRS, tmp_path, 4, lambda: again, progress)
    assert drawn == PAIRS[8:]
    assert (progress.done, progress.skipped) == (2, 8)


def test_two_that_share_a_drawing_cut_the_batches_of_one(tmp_path: Path) -> None:
    drawn: list[list[str]] = []

    def draw(batch: Sequence[tuple[PromptItem, int]]) -> list[Image.Image]:
        drawn.append([item.prompt_id[-1] for item, _ in batch])
        return pictures(batch)

    for number in (1, 0):
        progress = Counted(tmp_path)
        draw_missing(
            PAIRS, tmp_path, 4, lambda: draw, progress, only=lambda batch, n=number: batch % 2 == n
        )
        assert progress.done == (4, 6)[number == 0]
    assert drawn == [list("4567"), list("0123"), list("89")]
    assert all(path.is_file() for path in paths(tmp_path))
