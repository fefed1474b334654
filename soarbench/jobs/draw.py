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
from soarbench.jobs.base import Context, Needs, SuiteJob
from soarbench.store.artefact import Artefact, Extent, Store


def extent_of(suite: SuiteConfig) -> Extent:
    """The part of a suite that is evaluated."""
    return Extent(max_prompts=suite.max_prompts, images_per_prompt=suite.images_per_prompt)


@dataclass(frozen=True, kw_only=True)
class Draw(SuiteJob):
    """Draws the images that are not there yet."""

    kind: ClassVar[str] = "draw"

    @property
    def source(self) -> addresses.Source:
        """The images."""
        return addresses.images(self.cell, self.step, self.suite)

    @property
    def step_needed(self) -> int:
        """Its snapshot is enough, while training goes on."""
        return self.step

    def needs(self) -> Needs:
        """A GPU."""
        return Needs(gpus=1, loads=addresses.loads(self.cell, self.step))

    def is_done(self, store: Store) -> bool:
        """Whether every image of this part of the suite was drawn."""
        return store.artefact(self.address).covers(extent_of(self.suite))

    def _seconds_left(self, store: Store, rates: RatesConfig) -> float:
        root, missing = store.artefact(self.address).root, suite_images(self.suite)
        # The published grid has 148,764 images: of what nobody has begun no file is looked for.
        if root.exists():
            missing = [pair for pair in missing if not image_path(root, *_key(pair)).is_file()]
        return len(missing) * rates.seconds_per_image

    def run(self, context: Context) -> None:
        """Draw what is missing, then note that this part of the suite is whole."""
        pairs, extent = suite_images(self.suite), extent_of(self.suite)
        what, code = f"draw {self.suite.name} at step {self.step}", code_of(self.cell.model)
        with self.begun(context, what, len(pairs), code) as (artefact, stage):
            root, older = artefact.root, self._older(artefact)
            # Batches are cut from what no earlier, smaller part of the suite had: which images are
            # drawn together must not depend on when a run was interrupted.
            new = [
                pair
                for pair in pairs
                if _key(pair) not in older or not image_path(root, *_key(pair)).is_file()
            ]
            stage.skip(len(pairs) - len(new))
            # Asked for at the first batch, so that weights are not loaded where none is missing.
            drawer = functools.cache(lambda: context.workbench.drawer(self.cell, self.step))
            at_once = self.cell.sampling.images_at_once(self.cell.model.resolution)
            draw_missing(new, root, at_once, drawer, stage)
            if not sampler_path(root).is_file():
                write_json(sampler_path(root), context.workbench.scheduler_facts(self.cell))
            artefact.add_extent(extent)

    def _older(self, artefact: Artefact) -> set[tuple[str, int]]:
        """The images of the parts of the suite that are whole."""
        record = artefact.record()
        assert record is not None
        parts = (replace(self.suite, **vars(extent)) for extent in record.extents)
        return {_key(pair) for part in parts for pair in suite_images(part)}


def _key(pair: tuple[PromptItem, int]) -> tuple[str, int]:
    return pair[0].prompt_id, pair[1]
