"""The job that draws a suite's images with the weights of a step."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import ClassVar

from soarbench.common.code import code_of
from soarbench.common.files import write_json
from soarbench.config.run import RatesConfig
from soarbench.config.settings import SuiteConfig
from soarbench.data.prompts import PromptItem
from soarbench.evaluation.drawing import draw_missing, image_path, sampler_path
from soarbench.evaluation.selection import suite_images
from soarbench.grid import addresses
from soarbench.grid.addresses import Source
from soarbench.jobs.base import Context, Job
from soarbench.store.artefact import Artefact, Extent, Store


def extent_of(suite: SuiteConfig) -> Extent:
    """The part of a suite that is evaluated."""
    return Extent(max_prompts=suite.max_prompts, images_per_prompt=suite.images_per_prompt)


@dataclass(frozen=True, kw_only=True)
class Draw(Job):
    """Draws the images that are not there yet.

    Attributes:
        step: Of training; 0 is the base model.
        suite: Whose prompts.
    """

    kind: ClassVar[str] = "draw"
    step: int
    suite: SuiteConfig

    @property
    def source(self) -> Source:
        """The images."""
        return addresses.images(self.cell, self.step, self.suite)

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.cell.label}: draw {self.suite.name} at step {self.step}"

    @property
    def code(self) -> tuple[str, ...]:
        """The model family's modules."""
        return code_of(self.cell.model)

    def is_done(self, store: Store) -> bool:
        """Whether every image of this part of the suite was drawn."""
        return store.artefact(self.address).covers(extent_of(self.suite))

    def seconds(self, store: Store, rates: RatesConfig) -> float:
        """Of the images that are left."""
        if self.is_done(store):
            return 0.0
        root = store.artefact(self.address).root
        pairs = suite_images(self.suite)
        missing = len(pairs)
        if root.exists():
            paths = (image_path(root, item.prompt_id, index) for item, index in pairs)
            missing = sum(not path.is_file() for path in paths)
        return missing * rates.seconds_per_image

    def run(self, context: Context) -> None:
        """Draw what is missing, then note that this part of the suite is whole."""
        pairs = suite_images(self.suite)
        with self.begun(context, len(pairs)) as (artefact, stage):
            # Batches are cut from what no earlier, smaller part of the suite had: which images are
            # drawn together must not depend on when a run was interrupted.
            older = self._older(artefact)
            paths = {key: image_path(artefact.root, *key) for key in map(_key, pairs)}
            new = [p for p in pairs if _key(p) not in older or not paths[_key(p)].is_file()]
            stage.skip(len(pairs) - len(new))
            drawer = functools.partial(context.workbench.drawer, self.cell, self.step)
            draw_missing(
                new,
                [paths[_key(pair)] for pair in new],
                self.cell.sampling.batch_size,
                functools.cache(drawer),
                stage,
            )
            if not sampler_path(artefact.root).is_file():
                facts = context.workbench.scheduler_facts(self.cell)
                write_json(sampler_path(artefact.root), facts)
            artefact.add_extent(extent_of(self.suite))

    def _older(self, artefact: Artefact) -> set[tuple[str, int]]:
        """The images of the parts of the suite that are whole."""
        record = artefact.record()
        assert record is not None
        parts = (replace(self.suite, **vars(extent)) for extent in record.extents)
        return {_key(pair) for part in parts for pair in suite_images(part)}


def _key(pair: tuple[PromptItem, int]) -> tuple[str, int]:
    return pair[0].prompt_id, pair[1]
