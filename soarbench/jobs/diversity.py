"""The job that measures how unlike the images of each prompt are, by one measure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from evaluators.diversity.config import DiversityConfig
from evaluators.images import load_image
from soarbench.common.code import code_of
from soarbench.common.files import is_parquet, write_atomically
from soarbench.config.run import RatesConfig
from soarbench.evaluation.drawing import image_path
from soarbench.evaluation.selection import num_images, suite_images
from soarbench.grid import addresses
from soarbench.jobs.base import Context, Needs, SuiteJob
from soarbench.store.artefact import Store
from soarbench.store.tables import ProbeFolder

#: On one core, by the laboratory's CLIP; progress corrects it as it goes.
_SECONDS_PER_IMAGE = 0.003


@dataclass(frozen=True, kw_only=True)
class Diversity(SuiteJob):
    """Measures every prompt of a suite that has images to compare.

    Attributes:
        measure: Its name in the cell.
    """

    kind: ClassVar[str] = "diversity"
    measure: str

    @property
    def config(self) -> DiversityConfig:
        """The measure's configuration."""
        return self.cell.diversity[self.measure]

    @property
    def source(self) -> addresses.Source:
        """The values."""
        return addresses.diversity(self.cell, self.step, self.suite, self.measure)

    def needs(self) -> Needs:
        """A GPU, unless the measure is told to do without."""
        loads = ("diversity", self.config.identity())
        return Needs(gpus=int(self.config.device != "cpu"), loads=loads)

    def is_done(self, store: Store) -> bool:
        """Whether the table is there."""
        return is_parquet(ProbeFolder(store.artefact(self.address).root).path("diversity"))

    @override
    def _seconds_left(self, store: Store, rates: RatesConfig) -> float:
        # Of all images, since the table is written whole.
        return _SECONDS_PER_IMAGE * num_images(self.suite)

    def run(self, context: Context) -> None:
        """Measure the images prompt by prompt."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        root, pairs = self.images(context.store).root, suite_images(self.suite)
        values: dict[str, float] = {}
        what = f"{self.measure} of {self.suite.name} at step {self.step}"
        with self.begun(context, what, len(pairs), code_of(self.config)) as (artefact, stage):
            measure = context.workbench.diversity(self.cell, self.measure)
            for prompt_id, group in itertools.groupby(pairs, lambda pair: pair[0].prompt_id):
                paths = [image_path(root, prompt_id, index) for _, index in group]
                with self.reading(context.store):
                    values[prompt_id] = measure([load_image(path) for path in paths])
                stage.advance(len(paths))
            table = pa.table({"prompt_id": list(values), "value": list(values.values())})
            path = ProbeFolder(artefact.root).path("diversity")
            write_atomically(path, lambda partial: pq.write_table(table, partial))
