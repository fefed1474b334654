"""Jobs that measure finished artefacts for signs of gaming: image statistics, and paths."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from evaluators.images import load_image
from soarbench.common.code import code_of
from soarbench.common.files import is_parquet, write_atomically
from soarbench.config.run import RatesConfig
from soarbench.diagnostics.settings import PROBE_SETTINGS
from soarbench.evaluation.drawing import image_path
from soarbench.evaluation.selection import suite_images
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.jobs.base import Context, Job, Needs, SuiteJob
from soarbench.jobs.train import require_weights
from soarbench.store.artefact import Artefact, Store
from soarbench.store.tables import ProbeFolder, Table

#: On two cores, in the laboratory; progress corrects them as it goes.
_SECONDS_PER_IMAGE, _SECONDS_PER_PATHS = 0.003, 12.0
Row = Mapping[str, object]


def _write(artefact: Artefact, name: Table, rows: Sequence[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(list(rows))
    path = ProbeFolder(artefact.root).path(name)
    write_atomically(path, lambda partial: pq.write_table(table, partial))


@dataclass(frozen=True, kw_only=True)
class ImageStatistics(SuiteJob):
    """Measures every image of a suite, and the diversity within each prompt."""

    kind: ClassVar[str] = "statistics"

    @property
    def source(self) -> addresses.Source:
        """The statistics."""
        return addresses.image_statistics(self.cell, self.step, self.suite)

    def is_done(self, store: Store) -> bool:
        """Whether the table is there."""
        return is_parquet(ProbeFolder(store.artefact(self.address).root).path("images"))

    @override
    def _seconds_left(self, store: Store, rates: RatesConfig) -> float:
        # Of all images, since the table is written whole.
        return _SECONDS_PER_IMAGE * len(suite_images(self.suite))

    def run(self, context: Context) -> None:
        """Measure the images prompt by prompt."""
        root, pairs = self.images(context.store).root, suite_images(self.suite)
        rows: list[Row] = []
        what = f"statistics of {self.suite.name} at step {self.step}"
        code = ["soarbench.diagnostics.image_statistics"]
        with self.begun(context, what, len(pairs), code) as (artefact, stage):
            for prompt_id, group in itertools.groupby(pairs, lambda pair: pair[0].prompt_id):
                own = [index for _, index in group]
                with self.reading(context.store):
                    rows += _image_rows(root, prompt_id, own)
                stage.advance(len(own))
            _write(artefact, "images", rows)


def _image_rows(root: Path, prompt_id: str, indices: Sequence[int]) -> Iterator[Row]:
    """Columns of ``ProbeFolder``'s ``images``, of one prompt."""
    # Imports scipy, which a dry run needs not.
    from soarbench.diagnostics.image_statistics import STATISTICS, diversity, pixels_of

    pictures = []
    for index in indices:
        pictures.append(load_image(image_path(root, prompt_id, index)))
    apart = diversity(pictures) if len(pictures) > 1 else None
    for index, image in zip(indices, pictures, strict=True):
        pixels = pixels_of(image)
        yield {
            "prompt_id": prompt_id,
            "image_index": index,
            **{name: measure(pixels) for name, measure in STATISTICS.items()},
            "diversity": apart,
        }


@dataclass(frozen=True, kw_only=True)
class Paths(Job):
    """Follows a cell's models along real images that training did not see.

    Attributes:
        data_of: The trained cell whose data is used: the cell itself, but for the base.
    """

    kind: ClassVar[str] = "paths"
    data_of: CellConfig

    @property
    def source(self) -> addresses.Source:
        """The paths."""
        return addresses.path_probe(self.cell, self.data_of, PROBE_SETTINGS)

    def needs(self) -> Needs:
        """A GPU."""
        return Needs(gpus=1, loads=addresses.base_loads(self.cell))

    def is_done(self, store: Store) -> bool:
        """Whether both tables are there."""
        folder = ProbeFolder(store.artefact(self.address).root)
        return is_parquet(folder.path("norms")) and is_parquet(folder.path("deviations"))

    @override
    def _seconds_left(self, store: Store, rates: RatesConfig) -> float:
        # Of all steps, since the tables are written whole.
        return _SECONDS_PER_PATHS

    def run(self, context: Context) -> None:
        """Measure every step's velocities, and the last step's paths."""
        norms: list[Row] = []
        steps, last = self.cell.own_steps, self.cell.own_steps[-1]
        what = f"paths of {self.data_of.task_name} images"
        own = ["soarbench.diagnostics.probes", "soarbench.diagnostics.trajectories"]
        code = [*own, *code_of(self.cell.model)]
        with self.begun(context, what, len(steps), code) as (artefact, stage):
            for step in steps:
                require_weights(context.store, self.cell, step)
                measured = context.workbench.probe(
                    self.cell, self.data_of, step, with_paths=step == last
                )
                norms += [{"step": step, **row} for row in measured.norms]
                if step == last:
                    _write(artefact, "deviations", [{"step": step, **r} for r in measured.paths])
                stage.advance()
            _write(artefact, "norms", norms)
