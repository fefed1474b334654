"""The tables of a cell, put together from the artefacts that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from soarbench.common.errors import Damaged, DamagedFile, StoreError
from soarbench.common.files import set_table_aside
from soarbench.evaluation.drawing import image_path
from soarbench.store.artefact import Extent, Store
from soarbench.store.judged import ScoresFolder
from soarbench.store.training import TrainingFolder

#: What a protocol says, by field; ``judge`` holds the facts about the judge's number.
Facts = Mapping[str, object]
#: What samplers differ in.
SAMPLER = ("num_inference_steps", "state_noise", "guidance_scale")
#: Of a probe; see ``ProbeFolder``.
Table = Literal["images", "diversity", "norms", "states", "exposure", "robustness"]
_REMEDY = "the command of the run makes it again"


@dataclass(frozen=True)
class ProbeFolder:
    """Where the tables of a probe lie."""

    root: Path

    def path(self, name: Table) -> Path:
        """A table.

        ``images``: statistics of every image of a suite at a step; prompt_id, image_index, those of
        ``image_statistics.STATISTICS``, and diversity (of the prompt; null where it has one image).
        ``diversity``: of a suite's prompts at a step, by one measure; prompt_id, value.
        ``norms``: RMS of the velocity at every evaluated step; step, row, norm.
        ``states``: of the base; level, shape (of a state), values (float32's bytes).
        ``exposure``: measures of exposure bias at the last step; step, row, measure, level, sigma
        (of the sampler, nearest to the level), value.
        """
        return self.root / f"{name}.parquet"


class CellTables(Protocol):
    """What there is of a cell, wherever it lies."""

    def scores(self) -> pa.Table:
        """A row a (step, evaluator, suite, prompt, image); those of ``evaluation.rows``, too."""

    def training(self) -> pa.Table | None:
        """What training logged: step, key, value; None without a log."""

    def probe(self, name: Table, key: str = "") -> pa.Table | None:
        """A table of diagnostics; None where there is none.

        Those of images have step and suite, and a column a measure of diversity; of an export they
        are means of a prompt's images, without image_index. ``robustness`` has
        the columns of ``scores`` and ``SAMPLER``, and is of every sampler, the cell's own first.
        """

    def protocols(self) -> dict[tuple[str, str], Facts]:
        """What stands behind the scores, by (suite, evaluator)."""

    def image_file(self, step: int, prompt_id: str, image_index: int) -> Path | None:
        """An image as it was drawn; None where it is not stored."""

    def strip(self, task: str, step: int) -> Image.Image | None:
        """Sample images beside each other, as an export has them; None elsewhere."""

    def strip_prompts(self, task: str) -> dict[str, str]:
        """Texts of a strip's prompts by id, in its order; empty without one."""


@dataclass(frozen=True, kw_only=True)
class StoredTables:
    """Of a cell whose artefacts are in a store, which its description names."""

    store: Store
    description: Mapping[str, Any]

    def scores(self) -> pa.Table:
        """See ``CellTables``."""
        return pa.concat_tables(
            labelled(folder.part(self.extent(suite)), step=step, evaluator=judge, suite=suite)
            for suite, judge, step, folder in self._judged()
        )

    def require_scores(self, *, samplers: bool = False) -> None:
        """Make sure that all images have scores; ``Damaged`` names those of a judge that lack some.

        ``samplers``: those by other samplers, too.
        """
        judged = [(suite, folder) for suite, _, _, folder in self._judged()]
        if samplers:
            judged += [(suite, folder) for _, suite, _, folder in self._by_samplers()]
        for suite, folder in judged:
            if not folder.has(self.extent(suite)):
                address = folder.root.relative_to(self.store.root).as_posix()
                raise Damaged(f"{folder.root} lacks scores of {suite}; {_REMEDY}", address)

    def training(self) -> pa.Table | None:
        """See ``CellTables``."""
        address = self.description["training"]
        if address is None:
            return None
        path = TrainingFolder(self.store.artefact(address).root).table_path
        # The end of a training is this file: without it a finished cell has lost its curves, and a
        # report that leaves them out without a word would look like a whole one.
        table = self._own(path)
        if table is None:
            raise StoreError(f"{path} is missing; {_REMEDY}")
        return table

    def probe(self, name: Table, key: str = "") -> pa.Table | None:
        """See ``CellTables``."""
        if name == "robustness":
            return self._robustness()
        if name != "images":
            paths = self.description["paths"]
            return self._table(paths[key], name) if key in paths else None
        tables = []
        for suite, facts in self.description["suites"].items():
            for step, address in facts["statistics"].items():
                table = self._table(address, name)
                if table is not None:
                    table = self._with_diversity(table, step, facts.get("diversity", {}))
                # Means over some of the steps would pass for the course of training.
                if table is None:
                    return None
                tables.append(labelled(table, step=int(step), suite=suite))
        # A prompt with one image has no diversity: a column of nulls, of no type of its own.
        return pa.concat_tables(tables, promote_options="permissive")

    def _robustness(self) -> pa.Table | None:
        """See ``probe``; None while scores of a sampler are missing."""
        step, tables = self.description["steps"][-1], []
        for sampler, suite, judge, folder in self._by_samplers():
            if not folder.has(self.extent(suite)):
                return None
            # Earlier versions had no guidance among them.
            settings = {key: sampler[key] for key in SAMPLER if key in sampler}
            names = {"step": step, "evaluator": judge, "suite": suite}
            tables.append(labelled(folder.part(self.extent(suite)), **names, **settings))
        return pa.concat_tables(tables) if tables else None

    def _by_samplers(self) -> Iterator[tuple[Mapping[str, Any], str, str, ScoresFolder]]:
        for sampler in self.description.get("robustness", []):
            for suite, judges in sampler["scores"].items():
                for judge, address in judges.items():
                    folder = ScoresFolder(self.store.artefact(address).root)
                    yield sampler, suite, judge, folder

    def _with_diversity(
        self, table: pa.Table, step: str, measures: Mapping[str, Mapping[str, str]]
    ) -> pa.Table | None:
        """Statistics with a column a measure of their prompts; None where one is missing."""
        for measure, steps in measures.items():
            values = self._table(steps[step], "diversity")
            if values is None:
                return None
            places = pc.index_in(table["prompt_id"], value_set=values["prompt_id"])
            table = table.append_column(measure, values["value"].take(places))
        return table

    def protocols(self) -> dict[tuple[str, str], Facts]:
        """See ``CellTables``."""
        protocols: dict[tuple[str, str], Facts] = {}
        for suite, judge, _, folder in self._judged():
            # All steps of a cell are judged alike, so the first that was judged speaks for all.
            if (suite, judge) not in protocols and (facts := folder.protocol()):
                protocols[suite, judge] = facts
        return protocols

    def image_file(self, step: int, prompt_id: str, image_index: int) -> Path | None:
        """See ``CellTables``."""
        for facts in self.description["suites"].values():
            root = self.store.artefact(facts["images"][str(step)]).root
            path = image_path(root, prompt_id, image_index)
            if path.is_file():
                return path
        return None

    def strip(self, task: str, step: int) -> None:
        """None: see ``image_file``."""

    def strip_prompts(self, task: str) -> dict[str, str]:  # noqa: ARG002
        """Empty: see ``image_file``."""
        return {}

    def summaries(self) -> Iterator[tuple[str, str, int, Mapping[str, float]]]:
        """Every judge's own summary of a suite at every step: suite, judge, step, numbers."""
        for suite, judge, step, folder in self._judged():
            yield suite, judge, step, folder.summary(self.extent(suite))

    def extent(self, suite: str) -> Extent:
        """The part of a suite that the cell is about."""
        facts = self.description["suites"][suite]
        return Extent(
            max_prompts=facts["max_prompts"], images_per_prompt=facts["images_per_prompt"]
        )

    def _judged(self) -> Iterator[tuple[str, str, int, ScoresFolder]]:
        for suite, facts in self.description["suites"].items():
            for judge, steps in facts["scores"].items():
                for step, address in steps.items():
                    folder = ScoresFolder(self.store.artefact(address).root)
                    yield suite, judge, int(step), folder

    def _table(self, address: str, name: Table) -> pa.Table | None:
        return self._own(ProbeFolder(self.store.artefact(address).root).path(name))

    def _own(self, path: Path) -> pa.Table | None:
        """A table of an artefact; ``Damaged`` where it cannot be read, and is moved away."""
        try:
            return pq.read_table(path) if path.is_file() else None
        except (pa.ArrowInvalid, OSError) as error:
            address = path.parent.relative_to(self.store.root).as_posix()
            raise Damaged(f"{set_table_aside(path, error)}; {_REMEDY}", address) from error


def read_table(path: Path, remedy: str) -> pa.Table | None:
    """A table; None where there is none, ``DamagedFile`` with the remedy where it is damaged."""
    if not path.is_file():
        return None
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DamagedFile(f"{path} is damaged ({error}); {remedy}") from error


def labelled(rows: pa.Table, **labels: str | float) -> pa.Table:
    """Rows with further columns, each of one value."""
    for name, value in labels.items():
        rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
    return rows
