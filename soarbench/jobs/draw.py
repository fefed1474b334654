"""The job that draws a suite's images with the weights of a step."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, replace
from typing import ClassVar

from typing_extensions import override

from baselines.loop.disk import remove_partials
from soarbench.common.code import code_of
from soarbench.common.files import read_record, write_record
from soarbench.config.run import RatesConfig
from soarbench.evaluation.drawing import Draw as Drawer
from soarbench.evaluation.drawing import Pair, batches, draw_missing, image_path, sampler_path
from soarbench.evaluation.selection import num_images, suite_images
from soarbench.grid import addresses
from soarbench.jobs.base import Context, Needs, SuiteJob, Workbench, extent_of
from soarbench.jobs.train import require_weights
from soarbench.store.artefact import Artefact, Store


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
        root, missing = store.artefact(self.address).root, num_images(self.suite)
        # Published, reward_specific has 53,600: of what nobody has begun no file is looked for.
        if root.exists():
            paths = (image_path(root, *_key(pair)) for pair in suite_images(self.suite))
            missing = sum(not path.is_file() for path in paths)
        return missing * rates.seconds_per_image

    def run(self, context: Context) -> None:
        """Draw what is missing, then note that this part of the suite is whole."""
        parts = self._parts(context.store.artefact(self.address))
        own = [self.shard.part(batches(part, self._at_once)) for part in parts]
        total = sum(len(batch) for part in own for batch in part)
        what, code = f"draw {self.suite.name} at step {self.step}", code_of(self.cell.model)
        with self.begun(context, what, total, code) as (artefact, stage):
            root = artefact.root
            # Another grid that held the artefact meanwhile may have ended a part of it.
            parts = self._parts(artefact)
            # Asked for at the first batch, so that weights are not loaded where none is missing.
            drawer = functools.cache(lambda: self._drawer(context))
            for part in parts:
                draw_missing(part, root, self._at_once, drawer, stage, only=self.shard.takes)
            with contextlib.nullcontext() if self.is_whole else artefact.held():
                self._finish(artefact, context.workbench)

    def _drawer(self, context: Context) -> Drawer:
        require_weights(context.store, self.cell, self.step)
        return context.workbench.drawer(self.cell, self.step)

    def _finish(self, artefact: Artefact, workbench: Workbench) -> None:
        """Note that the suite is whole, if no other shard has images left to draw."""
        root, pairs = artefact.root, suite_images(self.suite)
        if not all(image_path(root, *_key(pair)).is_file() for pair in pairs):
            return
        if read_record(sampler_path(root)) is None:
            write_record(sampler_path(root), workbench.scheduler_facts(self.cell))
        # Before the end is noted, after which nobody comes back.
        remove_partials(root)
        artefact.add_extent(extent_of(self.suite))

    @property
    def _at_once(self) -> int:
        return self.cell.sampling.images_at_once(self.cell.model.resolution)

    @property
    @override
    def num_batches(self) -> int:
        return len(batches(suite_images(self.suite), self._at_once))

    def _parts(self, artefact: Artefact) -> list[list[Pair]]:
        """Images by the part of the suite for which they were drawn first; the last is this one.

        Of older parts, which are whole unless images were lost, only batches that this one needs.
        """
        record = artefact.record()
        extents = () if record is None else record.extents
        suites = [*(replace(self.suite, **vars(extent)) for extent in extents), self.suite]
        own = {_key(pair) for pair in suite_images(self.suite)}
        parts, before = [], set[tuple[str, int]]()
        # Batches are cut from what no earlier part had: which images are drawn together must not
        # depend on when a run was interrupted, and a lost image must come back with the same bits.
        for suite in suites:
            new = [pair for pair in suite_images(suite) if _key(pair) not in before]
            needed = [b for b in batches(new, self._at_once) if own & set(map(_key, b))]
            parts.append([pair for batch in needed for pair in batch])
            before |= set(map(_key, new))
        return parts


def _key(pair: Pair) -> tuple[str, int]:
    return pair[0].prompt_id, pair[1]
