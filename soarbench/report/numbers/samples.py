"""Stored images of the same prompts and noise under every method and step; makes none."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from soarbench.report.numbers.names import BASE, Titles, ordered_methods, titles_of
from soarbench.report.numbers.panels import Panel, Run
from soarbench.store.cells import Cell
from soarbench.store.facts import MetricFacts

#: Prompts shown of a task, and the most pixels a side that a page needs.
NUM_PROMPTS, LARGEST_SIDE = 12, 192
_QUALITY = 82


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One stored image, as a JPEG small enough for a page; ``score`` None where it has none."""

    method: str
    step: int
    seed: int
    prompt_id: str
    jpeg: bytes
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The images of one task.

    Attributes:
        prompts: Text of each prompt, by its id, in order.
        samples: By (method, step, prompt id).
        facts: Of the metric that scored them, the one that decides.
    """

    task: str
    facts: MetricFacts
    prompts: Mapping[str, str]
    samples: Mapping[tuple[str, int, str], Sample]
    titles: Titles

    @property
    def methods(self) -> list[str]:
        """Methods with images, the base first."""
        return ordered_methods({sample.method for sample in self.samples.values()})

    @property
    def steps(self) -> list[int]:
        """Steps of trained methods with images, ascending."""
        return sorted({s.step for s in self.samples.values() if s.method != BASE})

    def steps_of(self, method: str) -> list[int]:
        """Steps of a method with images, ascending."""
        return sorted({s.step for s in self.samples.values() if s.method == method})


def shown_cells(cells: Sequence[Cell], task: str) -> list[Cell]:
    """The base and, of every method of a task, the cell of the lowest seed."""
    shown: dict[str, Cell] = {}
    # The lowest seed, a choice that nobody made after looking at images.
    for cell in sorted(cells, key=lambda one: one.seed):
        if cell.task == task or cell.is_base:
            shown.setdefault(cell.method, cell)
    return [shown[method] for method in ordered_methods(shown)]


def shown_steps(cells: Sequence[Cell]) -> dict[str, list[int]]:
    """By method, the steps that all trained cells have, and its last; all where they share none."""
    # One that stands for another method's cost has nothing beside it.
    trained = [set(cell.steps) for cell in cells if not cell.is_base]
    shared = set.intersection(*trained) if trained else set()
    return {
        cell.method: [
            step for step in cell.steps if not shared or step in {*shared, cell.steps[-1]}
        ]
        for cell in cells
    }


def read_samples(cells: Sequence[Cell], panel: Panel) -> Samples:
    """The stored images, maybe none, of a task; the panel of its deciding metric names prompts."""
    shown = shown_cells(cells, panel.task)
    # A strip shows the prompts that it was exported with, whatever would be chosen today.
    stored = (cell.strip_prompts(panel.task) for cell in shown)
    prompts = next(filter(None, stored), None) or _chosen_prompts(shown, panel)
    steps = shown_steps(shown)
    samples = {
        (one.method, one.step, one.prompt_id): one
        for cell in shown
        for step in steps[cell.method]
        for one in _of_step(cell, panel, step, list(prompts))
    }
    return Samples(
        task=panel.task, facts=panel.facts, prompts=prompts, samples=samples,
        titles=titles_of(shown),
    )  # fmt: skip


def _chosen_prompts(cells: Sequence[Cell], panel: Panel) -> dict[str, str]:
    """Evenly spaced prompts of the panel with their texts."""
    every = list(dict.fromkeys(panel.prompts.tolist()))
    count = min(NUM_PROMPTS, len(every))
    ids = [str(every[index * len(every) // count]) for index in range(count)]
    texts = {prompt.prompt_id: prompt.text for prompt in cells[-1].prompts()}
    return {prompt_id: texts.get(prompt_id, prompt_id) for prompt_id in ids}


def _of_step(cell: Cell, panel: Panel, step: int, prompt_ids: Sequence[str]) -> Iterator[Sample]:
    """The first image of every prompt, from the images or from an exported strip."""
    strip, scores = cell.strip(panel.task, step), _scores(panel, Run(cell.method, cell.seed, step))
    for index, prompt_id in enumerate(prompt_ids):
        image: Image.Image | None
        if strip is not None:
            side = strip.height  # of the square images beside each other
            image = strip.crop((index * side, 0, (index + 1) * side, side))
        elif (image := cell.image(step, prompt_id, 0)) is not None:
            image = image.convert("RGB")
            image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        if image is not None:
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=_QUALITY)
            yield Sample(
                method=cell.method,
                step=step,
                seed=cell.seed,
                prompt_id=prompt_id,
                jpeg=stream.getvalue(),
                score=scores.get(prompt_id),
            )


def _scores(panel: Panel, run: Run) -> dict[str, float]:
    """Of the first image of every prompt; without failed measurements."""
    values = panel.values.get(run)
    if values is None:
        return {}
    is_first = (panel.images == 0) & ~np.isnan(values)
    pairs = zip(panel.prompts[is_first].tolist(), values[is_first].tolist(), strict=True)
    return {str(prompt): float(value) for prompt, value in pairs}


def strip_of(samples: Samples, method: str, step: int) -> Image.Image | None:
    """The images of a method at a step beside each other; None where one is missing."""
    stored = [samples.samples.get((method, step, prompt_id)) for prompt_id in samples.prompts]
    images = [Image.open(io.BytesIO(one.jpeg)) for one in stored if one is not None]
    # A strip is read by position: with an image missing, all after it would change places.
    if not images or len(images) < len(stored):
        return None
    side = max(max(image.size) for image in images)
    strip = Image.new("RGB", (side * len(images), side), "white")
    for index, image in enumerate(images):
        strip.paste(image, (index * side, 0))
    return strip
