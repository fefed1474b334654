"""Jobs that measure finished artefacts for signs of gaming: image statistics, and paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from soarbench.common.code import code_of
from soarbench.common.files import write_atomically
from soarbench.config.run import RatesConfig
from soarbench.config.settings import SuiteConfig
from soarbench.diagnostics.settings import PROBE_SETTINGS
from soarbench.evaluation.drawing import image_path
from soarbench.evaluation.selection import suite_images
from soarbench.grid import addresses
from soarbench.grid.addresses import Source
from soarbench.grid.cell import CellConfig
from soarbench.jobs.base import Context, Job
from soarbench.store.artefact import Artefact, Store
from soarbench.store.tables import ProbeFolder, Table

#: On two cores, in the laboratory; progress corrects them as it goes.
_SECONDS_PER_IMAGE, _SECONDS_PER_PATHS = 0.003, 12.0
Values = Sequence[Mapping[str, object]]


def _write(artefact: Artefact, name: Table, rows: Values) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist(list(rows))
    path = ProbeFolder(artefact.root).path(name)
    write_atomically(path, lambda partial: pq.write_table(table, partial))


@dataclass(frozen=True, kw_only=True)
class ImageStatistics(Job):
    """Measures every image of a suite, and the diversity within each prompt.

    Attributes:
        step: Of training; 0 is the base model.
        suite: Whose images.
    """

    kind: ClassVar[str] = "statistics"
    step: int
    suite: SuiteConfig

    @property
    def source(self) -> Source:
        """The statistics."""
        return addresses.image_statistics(self.cell, self.step, self.suite)

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.cell.label}: statistics of {self.suite.name} at step {self.step}"

    @property
    def code(self) -> tuple[str, ...]:
        """What measures."""
        return ("soarbench.diagnostics.image_statistics",)

    def is_done(self, store: Store) -> bool:
        """Whether the table is there."""
        return ProbeFolder(store.artefact(self.address).root).path("images").is_file()

    def seconds(self, store: Store, rates: RatesConfig) -> float:  # noqa: ARG002 (no rate of its own)
        """Of all images, since the table is written whole."""
        return 0.0 if self.is_done(store) else _SECONDS_PER_IMAGE * len(suite_images(self.suite))

    def run(self, context: Context) -> None:
        """Measure the images prompt by prompt."""
        drawn = context.store.artefact(addresses.images(self.cell, self.step, self.suite).address)
        indices: dict[str, list[int]] = {}
        for item, index in suite_images(self.suite):
            indices.setdefault(item.prompt_id, []).append(index)
        total = sum(len(own) for own in indices.values())
        rows: list[Mapping[str, object]] = []
        with self.begun(context, total) as (artefact, stage):
            for prompt_id, own in indices.items():
                rows += _image_rows(drawn, prompt_id, own)
                stage.advance(len(own))
            _write(artefact, "images", rows)


def _image_rows(
    drawn: Artefact, prompt_id: str, indices: Sequence[int]
) -> Iterator[Mapping[str, object]]:
    """Columns of ``ProbeFolder``'s ``images``, of one prompt."""
    # Imports scipy, which a dry run needs not.
    from soarbench.diagnostics.image_statistics import STATISTICS, diversity, pixels_of

    pictures = []
    for index in indices:
        with Image.open(image_path(drawn.root, prompt_id, index)) as file:
            pictures.append(file.convert("RGB"))
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
    def source(self) -> Source:
        """The paths."""
        return addresses.path_probe(self.cell, self.data_of, PROBE_SETTINGS)

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.cell.label}: paths of {self.data_of.task_name} images"

    @property
    def code(self) -> tuple[str, ...]:
        """What measures, and the model family."""
        own = ("soarbench.diagnostics.probes", "soarbench.diagnostics.trajectories")
        return (*own, *code_of(self.cell.model))

    def is_done(self, store: Store) -> bool:
        """Whether both tables are there; the norms are written last."""
        return ProbeFolder(store.artefact(self.address).root).path("norms").is_file()

    def seconds(self, store: Store, rates: RatesConfig) -> float:  # noqa: ARG002 (no rate of its own)
        """Of all steps, since the tables are written whole."""
        return 0.0 if self.is_done(store) else _SECONDS_PER_PATHS

    def run(self, context: Context) -> None:
        """Measure every step's velocities, and the last step's paths."""
        norms: list[Mapping[str, object]] = []
        with self.begun(context, len(self.cell.steps)) as (artefact, stage):
            for step in self.cell.steps:
                is_last = step == self.cell.steps[-1]
                measured = context.workbench.probe(
                    self.cell, self.data_of, step, with_paths=is_last
                )
                norms += [{"step": step, **row} for row in measured.norms]
                if is_last:
                    _write(artefact, "deviations", [{"step": step, **r} for r in measured.paths])
                stage.advance()
            _write(artefact, "norms", norms)
