"""The tables of a cell, put together from the artefacts that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from soarbench.common.errors import StoreError
from soarbench.evaluation.drawing import image_path
from soarbench.store.artefact import Extent, Store
from soarbench.store.judged import ScoresFolder
from soarbench.store.probes import ProbeFolder, Table
from soarbench.store.training import TrainingFolder

Facts = Mapping[str, object]
"""What a protocol says, by field; ``judge`` holds the facts about the judge's number."""


class CellTables(Protocol):
    """What there is of a cell, wherever it lies."""

    def scores(self) -> pa.Table:
        """A row a (step, evaluator, suite, prompt, image); those of ``evaluation.rows``, too."""
        ...

    def training(self) -> pa.Table | None:
        """What training logged: step, key, value; None without a log."""
        ...

    def probe(self, name: Table, key: str = "") -> pa.Table | None:
        """A table of diagnostics, those of images with step and suite; None where there is none."""
        ...

    def protocols(self) -> dict[tuple[str, str], Facts]:
        """What stands behind the scores, by (suite, evaluator)."""
        ...

    def image_file(self, step: int, prompt_id: str, image_index: int) -> Path | None:
        """An image as it was drawn; None where it is not stored."""
        ...

    def strip(self, task: str, step: int) -> Image.Image | None:
        """Sample images beside each other, as an export has them; None elsewhere."""
        ...

    def strip_prompts(self, task: str) -> dict[str, str]:
        """Texts of a strip's prompts by id, in its order; empty without one."""
        ...


@dataclass(frozen=True, kw_only=True)
class StoredTables:
    """Of a cell whose artefacts are in a store.

    Attributes:
        store: Where.
        description: Of the cell (``soarbench.grid.description``).
    """

    store: Store
    description: Mapping[str, object]

    def scores(self) -> pa.Table:
        """See ``CellTables``."""
        tables = []
        for suite, judge, step, folder in self._judged():
            rows = folder.part(self.extent(suite))
            names = {"step": pa.scalar(step, pa.int64()), "evaluator": judge, "suite": suite}
            for name, value in names.items():
                rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
            tables.append(rows)
        return pa.concat_tables(tables)

    def training(self) -> pa.Table | None:
        """See ``CellTables``."""
        address = self.description["training"]
        if address is None:
            return None
        path = TrainingFolder(self.store.artefact(str(address)).root).table_path
        if not path.is_file():
            raise StoreError(
                f"{path} is missing; delete {path.parent} and give the command of the run again"
            )
        return _read(path)

    def probe(self, name: Table, key: str = "") -> pa.Table | None:
        """See ``CellTables``."""
        if name != "images":
            paths = self.description["paths"]
            assert isinstance(paths, Mapping)
            return None if key not in paths else self._table(str(paths[key]), name)
        tables = []
        for suite, facts in self._suites().items():
            for step, address in facts["statistics"].items():
                table = self._table(address, name)
                if table is None:
                    return None
                table = table.append_column("step", pa.repeat(int(step), table.num_rows))
                tables.append(table.append_column("suite", pa.repeat(suite, table.num_rows)))
        # A prompt with one image has no diversity: a column of nulls, of no type of its own.
        return pa.concat_tables(tables, promote_options="permissive")

    def protocols(self) -> dict[tuple[str, str], Facts]:
        """See ``CellTables``; all steps of a cell are judged alike."""
        protocols: dict[tuple[str, str], Facts] = {}
        for suite, judge, _, folder in self._judged():
            if (suite, judge) not in protocols and (facts := folder.protocol()):
                protocols[suite, judge] = facts
        return protocols

    def image_file(self, step: int, prompt_id: str, image_index: int) -> Path | None:
        """See ``CellTables``."""
        for facts in self._suites().values():
            root = self.store.artefact(facts["images"][str(step)]).root
            path = image_path(root, prompt_id, image_index)
            if path.is_file():
                return path
        return None

    def strip(self, task: str, step: int) -> None:  # noqa: ARG002 (a store has the images)
        """None: see ``image_file``."""
        return

    def strip_prompts(self, task: str) -> dict[str, str]:  # noqa: ARG002
        """Empty: see ``image_file``."""
        return {}

    def summaries(self) -> Iterator[tuple[str, int, Mapping[str, float]]]:
        """Every judge's own summary at every step."""
        for suite, judge, step, folder in self._judged():
            yield judge, step, folder.summary(self.extent(suite))

    def extent(self, suite: str) -> Extent:
        """The part of a suite that the cell is about."""
        facts = self._suites()[suite]
        return Extent(
            max_prompts=facts["max_prompts"], images_per_prompt=facts["images_per_prompt"]
        )

    def _suites(self) -> Mapping[str, Mapping[str, Any]]:
        suites = self.description["suites"]
        assert isinstance(suites, Mapping)
        return suites

    def _judged(self) -> Iterator[tuple[str, str, int, ScoresFolder]]:
        for suite, facts in self._suites().items():
            for judge, steps in facts["scores"].items():
                for step, address in steps.items():
                    root = self.store.artefact(address).root
                    yield suite, judge, int(step), ScoresFolder(root)

    def _table(self, address: str, name: Table) -> pa.Table | None:
        return _read(ProbeFolder(self.store.artefact(address).root).path(name))


def _read(path: Path) -> pa.Table | None:
    """A table; None where there is none.

    Raises:
        StoreError: It is damaged.
    """
    if not path.is_file():
        return None
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(
            f"{path} is damaged ({error}); delete {path.parent} and give the command of the run "
            "again"
        ) from error
