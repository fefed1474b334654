"""The job that has one judge score a suite's images."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from baselines.loop.disk import remove_partials
from evaluators.base import Evaluator, JudgeConfig
from evaluators.samples import SampleFile
from soarbench.common.code import code_of
from soarbench.common.errors import Damaged
from soarbench.common.files import read_record
from soarbench.config.run import RatesConfig
from soarbench.evaluation.drawing import sampler_path
from soarbench.evaluation.judging import chunks_to_judge, images_at_a_time, judge_files, summed_up
from soarbench.evaluation.protocol import fingerprint, image_facts, judge_facts
from soarbench.evaluation.rows import ScoreRows
from soarbench.evaluation.selection import num_images, sample_files
from soarbench.grid import addresses
from soarbench.jobs.base import Context, Needs, SuiteJob, extent_of
from soarbench.planning.memory_and_time import weights_gb
from soarbench.store.artefact import Artefact, Store
from soarbench.store.judged import ScoresFolder

#: What CUDA, cuDNN and torch's allocator take beside a judge; not counted, but on the safe side.
CONTEXT_GB = 1.5


@dataclass(frozen=True, kw_only=True)
class Judge(SuiteJob):
    """Scores the images that have no score yet.

    Attributes:
        judge: Its name in the cell.
    """

    kind: ClassVar[str] = "judge"
    judge: str

    @property
    def config(self) -> JudgeConfig:
        """The judge's configuration."""
        return self.cell.judges[self.judge]

    @property
    def source(self) -> addresses.Source:
        """The scores."""
        return addresses.scores(self.cell, self.step, self.suite, self.judge)

    def needs(self) -> Needs:
        """A part of a GPU, all of one where the judge does not say how large it is, or none."""
        loads, place = ("judge", self.config.identity()), self.config.runs_on
        if place is not None and place != "auto" and not place.startswith("cuda"):
            return Needs(loads=loads)
        weights = weights_gb(self.config)
        if not weights:
            return Needs(gpus=1, loads=loads)
        return Needs(gpu_gb=weights + self.config.batch_gb + CONTEXT_GB, loads=loads)

    def is_done(self, store: Store) -> bool:
        """Whether every image of this part of the suite has a row, and the part a summary."""
        # Not whether a larger part covers it: the summary is of this very part.
        artefact, extent = store.artefact(self.address), extent_of(self.suite)
        return artefact.has(extent) and ScoresFolder(artefact.root).has(extent)

    def _seconds_left(self, store: Store, rates: RatesConfig) -> float:
        done = ScoreRows(store.artefact(self.address).root).count()
        missing = max(num_images(self.suite) - done, 0)
        return missing * rates.seconds_per_score.get(self.judge, 0.0)

    def run(self, context: Context) -> None:
        """Score what is missing, then note that this part of the suite is whole."""
        drawn = self.images(context.store).root
        files = sample_files(self.suite, drawn)
        what = f"judge {self.suite.name} at step {self.step} by {self.judge}"
        scores = ScoresFolder(context.store.artefact(self.address).root)
        scores.rows.drop_damaged()
        total = self._num_own(files, scores.rows)
        with self.begun(context, what, total, code_of(self.config)) as (artefact, stage):
            evaluator = context.workbench.evaluator(self.cell, self.judge)
            sampler = self._sampler(context.store)
            drawing = image_facts(self.suite, self.cell.model, self.cell.sampling, sampler)
            facts = {**drawing, **judge_facts(evaluator)}
            scores.write_protocol(facts, self.config.facts())
            with self.reading(context.store):
                judge_files(
                    evaluator,
                    files,
                    scores.rows,
                    fingerprint=fingerprint(facts),
                    largest=self._largest,
                    progress=stage,
                    only=self.shard.takes,
                )
            with contextlib.nullcontext() if self.is_whole else artefact.held():
                self._finish(artefact, evaluator, files)

    def _sampler(self, store: Store) -> dict[str, object]:
        images = self.images(store)
        facts = read_record(sampler_path(images.root))
        if facts is None:
            raise Damaged(f"{sampler_path(images.root)} is missing", images.address)
        return facts

    @property
    @override
    def num_batches(self) -> int:
        return math.ceil(num_images(self.suite) / images_at_a_time(self._largest))

    @property
    def _largest(self) -> int:
        return self.cell.model.resolution**2

    def _num_own(self, files: Sequence[SampleFile], rows: ScoreRows) -> int:
        """Images that this shard counts: those with a finished row are the first one's."""
        chunks = chunks_to_judge(files, rows, self._largest)
        finished = len(files) - sum(map(len, chunks)) if self.shard.takes(0) else 0
        return finished + sum(map(len, self.shard.part(chunks)))

    def _finish(
        self, artefact: Artefact, evaluator: Evaluator, files: Sequence[SampleFile]
    ) -> None:
        """Sum up, if no other shard has images left to judge."""
        scores, extent = ScoresFolder(artefact.root), extent_of(self.suite)
        judged = {row["sample_id"] for row in scores.rows.read()}
        if not judged.issuperset(file.sample_id for file in files):
            return
        numbers = summed_up(evaluator, files, scores.rows)
        scores.write_summary(extent, numbers, [file.prompt_id for file in files])
        # Last: whoever finds the part noted, finds its rows and its summary.
        artefact.add_extent(extent)
        remove_partials(artefact.root)
