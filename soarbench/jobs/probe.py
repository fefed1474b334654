"""Jobs that measure finished artefacts: statistics of images, and models along real images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from typing_extensions import override

from evaluators.images import load_image
from soarbench.common.code import code_of
from soarbench.common.errors import Damaged
from soarbench.common.files import is_parquet, write_atomically
from soarbench.config.run import RatesConfig
from soarbench.diagnostics.measured import Row, States
from soarbench.diagnostics.settings import PROBE_SETTINGS
from soarbench.evaluation.drawing import image_path
from soarbench.evaluation.selection import num_images, suite_images
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.jobs.base import Context, Job, Needs, SuiteJob
from soarbench.jobs.train import require_weights
from soarbench.store.artefact import Artefact, Store
from soarbench.store.tables import ProbeFolder, Table

#: On two cores, in the laboratory; progress corrects them as it goes.
_SECONDS_PER_IMAGE, _SECONDS_PER_STATES, _SECONDS_PER_PATHS = 0.003, 2.0, 10.0
_CODE = ("soarbench.diagnostics.probes", "soarbench.diagnostics.exposure")


def _write(artefact: Artefact, name: Table, rows: Sequence[Row]) -> None:
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
        return _SECONDS_PER_IMAGE * num_images(self.suite)

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
class FollowedJob(Job):
    """A model at work along real images that training did not see.

    Attributes:
        data_of: The trained cell whose data is used: the cell itself, but for the base.
    """

    data_of: CellConfig

    def needs(self) -> Needs:
        """A GPU."""
        return Needs(gpus=1, loads=addresses.base_loads(self.cell))

    def _folder(self, store: Store) -> ProbeFolder:
        return ProbeFolder(store.artefact(self.address).root)


@dataclass(frozen=True, kw_only=True)
class BaseStates(FollowedJob):
    """Keeps where the base's own sampling leads from the path of each image.

    ``cell`` is the base, or one that starts from it.
    """

    # An artefact, though it is made in seconds: all models must be asked about the same bits, also
    # where other machines, and other kinds of them, measure some of the models.
    kind: ClassVar[str] = "base states"

    @property
    def source(self) -> addresses.Source:
        """The states."""
        return addresses.base_states(self.data_of, PROBE_SETTINGS)

    def is_done(self, store: Store) -> bool:
        """Whether the table is there."""
        return is_parquet(self._folder(store).path("states"))

    @override
    def _seconds_left(self, store: Store, rates: RatesConfig) -> float:
        return _SECONDS_PER_STATES

    def run(self, context: Context) -> None:
        """Sample from the path to every level."""
        what = f"states of {self.data_of.task_name} images"
        with self.begun(context, what, 1, (*_CODE, *code_of(self.cell.model))) as (artefact, stage):
            states = context.workbench.base_states(self.cell, self.data_of)
            # As bytes: of numbers there are 25 million at 1024 px.
            rows = [
                {"level": level, "shape": list(one.shape), "values": one.tobytes()}
                for level, state in states.items()
                for one in state
            ]
            _write(artefact, "states", rows)
            stage.advance()

    def states(self, store: Store) -> States:
        """What ``run`` kept; ``Damaged`` where it cannot be read."""
        path = self._folder(store).path("states")
        try:
            rows = pq.read_table(path).to_pylist()
        except (pa.ArrowInvalid, OSError) as error:
            path.unlink(missing_ok=True)
            raise Damaged(f"{path} is damaged ({error})", self.address) from error
        levels = dict.fromkeys(row["level"] for row in rows)
        return {
            level: np.stack([_state(row) for row in rows if row["level"] == level])
            for level in levels
        }


def _state(row: Mapping[str, Any]) -> NDArray[np.float32]:
    return np.frombuffer(row["values"], np.float32).reshape(row["shape"]).copy()


@dataclass(frozen=True, kw_only=True)
class Paths(FollowedJob):
    """Measures a cell's models on and off the path of each image."""

    kind: ClassVar[str] = "paths"

    @property
    def source(self) -> addresses.Source:
        """The measures."""
        return addresses.path_probe(self.cell, self.data_of, PROBE_SETTINGS)

    @property
    def states(self) -> BaseStates:
        """Where all models are asked."""
        # Of a second stage too the base, which its first stage started from.
        first, *_ = (*self.cell.lineage, self.cell)
        return BaseStates(cell=first, data_of=self.data_of)

    def is_done(self, store: Store) -> bool:
        """Whether both tables are there."""
        folder = self._folder(store)
        return is_parquet(folder.path("norms")) and is_parquet(folder.path("exposure"))

    @override
    def _seconds_left(self, store: Store, rates: RatesConfig) -> float:
        # Of all steps, since the tables are written whole.
        return _SECONDS_PER_PATHS

    def run(self, context: Context) -> None:
        """Measure every step's velocities, and exposure bias at the last step."""
        norms: list[Row] = []
        steps, last = self.cell.own_steps, self.cell.own_steps[-1]
        what = f"paths of {self.data_of.task_name} images"
        states = self.states.states(context.store)
        with self.begun(context, what, len(steps), (*_CODE, *code_of(self.cell.model))) as begun:
            artefact, stage = begun
            for step in steps:
                require_weights(context.store, self.cell, step)
                measured = context.workbench.probe(
                    self.cell, self.data_of, step, states=states if step == last else None
                )
                norms += [{"step": step, **row} for row in measured.norms]
                if step == last:
                    rows = [{"step": step, **row} for row in measured.exposure]
                    _write(artefact, "exposure", rows)
                stage.advance()
            _write(artefact, "norms", norms)
