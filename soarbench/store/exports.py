"""A grid without images or weights, to be published: one Parquet file a kind of table.

``cells.parquet`` holds a JSON text a cell (names, state, cost, launches, protocols), the other
files the rows of all cells together, so that what cells share is stored once.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from soarbench.common.errors import StoreError
from soarbench.common.files import read_json, write_atomically, write_json
from soarbench.common.provenance import STORE_VERSION
from soarbench.store.cells import Cell, launch_of
from soarbench.store.probes import Table
from soarbench.store.tables import Facts

#: Names the grid of an export.
MANIFEST = "export.json"
_ID = "cell_id"
_QUALITY = 85
#: Measurements of images and paths, which nobody pairs to the last bit.
_SINGLE = {"images", "norms", "deviations"}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``export.json`` says.

    Attributes:
        grid: Name.
        baseline: Method that differences are taken to.
    """

    grid: str
    baseline: str


@dataclass(frozen=True)
class Export:
    """The folder of an exported grid; each table is read once."""

    root: Path

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return (self.root / MANIFEST).is_file()

    def manifest(self) -> Manifest:
        """The manifest.

        Raises:
            StoreError: It is damaged or of another version.
        """
        values = read_json(self.root / MANIFEST)
        version = values.get("version")
        if version != STORE_VERSION or not {"grid", "baseline"} <= values.keys():
            raise StoreError(
                f"{self.root / MANIFEST} is of store version {version}, and this soarbench reads "
                f"{STORE_VERSION}; install the soarbench that wrote it"
            )
        return Manifest(grid=str(values["grid"]), baseline=str(values["baseline"]))

    def cells(self) -> list[Cell]:
        """Every cell that was exported, finished or not."""
        self.manifest()
        table = self.table("cells")
        if table is None:
            raise StoreError(f"{self.root / 'cells.parquet'} is missing; export the grid again")
        return [self._cell(json.loads(text)) for text in table["cell"].to_pylist()]

    def _cell(self, values: Mapping[str, object]) -> Cell:
        launches = values["launches"]
        assert isinstance(launches, list)
        rest = {
            name: values[name]
            for name in ("description", "state", "reason", "mlflow_run_id", "budget", "created_at",
                         "code")
        }  # fmt: skip
        return Cell(
            tables=ExportedTables(export=self, values=values),
            launches=tuple(launch_of(launch) for launch in launches),
            **rest,  # type: ignore[arg-type]
        )

    def strips(self) -> list[Strip]:
        """The sample images of all cells."""
        table = self.table("samples")
        rows = [] if table is None else table.to_pylist()
        return [Strip(**{**row, "prompts": dict(json.loads(row["prompts"]))}) for row in rows]

    def table(self, name: str) -> pa.Table | None:
        """A table of all cells; None where the export has none."""
        path = self.root / f"{name}.parquet"
        return _table(path, _stamp(path))

    def rows(self, name: str, cell_id: str) -> pa.Table | None:
        """A cell's rows of a table; None where it has none."""
        path = self.root / f"{name}.parquet"
        return _by_cell(path, _stamp(path)).get(cell_id)

    def needed(self, name: str, cell_id: str) -> pa.Table:
        """The same of a table in which every finished cell has rows.

        Raises:
            StoreError: It has none.
        """
        rows = self.rows(name, cell_id)
        if rows is None:
            raise StoreError(
                f"{self.root / name}.parquet is missing or has no rows of {cell_id}; export the "
                "grid again"
            )
        return rows


def _stamp(path: Path) -> int | None:
    """When a table was written; None where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else None


@functools.lru_cache(maxsize=64)
def _table(path: Path, stamp: int | None) -> pa.Table | None:
    if stamp is None:
        return None
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{path} is damaged ({error}); export the grid again") from error


@functools.lru_cache(maxsize=64)
def _by_cell(path: Path, stamp: int | None) -> Mapping[str, pa.Table]:
    """The rows of each cell, which follow each other."""
    table = _table(path, stamp)
    if table is None:
        return {}
    ids = table[_ID].cast(pa.string()).to_pylist()
    starts = [row for row in range(len(ids)) if row == 0 or ids[row] != ids[row - 1]]
    ends = [*starts[1:], len(ids)]
    rows = table.drop_columns([_ID])
    return {
        ids[start]: rows.slice(start, end - start) for start, end in zip(starts, ends, strict=True)
    }


@dataclass(frozen=True, kw_only=True)
class ExportedTables:
    """Of a cell in an export; see ``tables.CellTables``.

    Attributes:
        export: Where.
        values: Of the cell, as ``cells.parquet`` has them.
    """

    export: Export
    values: Mapping[str, object]

    @property
    def _description(self) -> Mapping[str, object]:
        description = self.values["description"]
        assert isinstance(description, Mapping)
        return description

    @property
    def _cell_id(self) -> str:
        return str(self._description[_ID])

    def scores(self) -> pa.Table:
        """See ``CellTables``."""
        return self.export.needed("scores", self._cell_id)

    def training(self) -> pa.Table | None:
        """See ``CellTables``."""
        is_base = self._description["data_key"] is None
        return None if is_base else self.export.needed("training", self._cell_id)

    def probe(self, name: Table, key: str = "") -> pa.Table | None:
        """See ``CellTables``."""
        rows = self.export.rows(name, self._cell_id)
        if rows is None or name == "images":
            return rows
        rows = rows.filter(pc.equal(rows["key"], key)).drop_columns(["key"])
        return rows if rows.num_rows else None

    def protocols(self) -> dict[tuple[str, str], Facts]:
        """See ``CellTables``."""
        protocols = self.values["protocols"]
        assert isinstance(protocols, list)
        return {(entry["suite"], entry["judge"]): entry["protocol"] for entry in protocols}

    def image_file(self, step: int, prompt_id: str, image_index: int) -> None:  # noqa: ARG002
        """None: an export has strips alone."""
        return

    def strip(self, task: str, step: int) -> Image.Image | None:
        """See ``CellTables``."""
        for row in self._samples(task):
            if row["step"] == step:
                with Image.open(io.BytesIO(row["jpeg"])) as image:
                    image.load()
                    return image
        return None

    def strip_prompts(self, task: str) -> dict[str, str]:
        """See ``CellTables``."""
        samples = self._samples(task)
        return dict(json.loads(samples[0]["prompts"])) if samples else {}

    def _samples(self, task: str) -> list[dict[str, Any]]:
        rows = self.export.rows("samples", self._cell_id)
        return [] if rows is None else [row for row in rows.to_pylist() if row["task"] == task]


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Small sample images of a cell beside each other.

    Attributes:
        cell_id: Whose.
        task: Whose prompts.
        step: Of training.
        prompts: Texts by id, in the strip's order.
        jpeg: The strip.
    """

    cell_id: str
    task: str
    step: int
    prompts: Mapping[str, str]
    jpeg: bytes

    @property
    def key(self) -> tuple[str, str, int]:
        """Cell, task and step."""
        return self.cell_id, self.task, self.step

    @classmethod
    def of(
        cls, cell_id: str, task: str, step: int, image: Image.Image, prompts: Mapping[str, str]
    ) -> Strip:
        """A strip of an image."""
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=_QUALITY)
        return cls(cell_id=cell_id, task=task, step=step, prompts=prompts, jpeg=stream.getvalue())


def write_export(
    root: Path,
    manifest: Manifest,
    cells: Sequence[Cell],
    strips: Iterable[Strip],
    clean: Mapping[str, str],
) -> None:
    """Write cells as an export, in the place of what was there.

    Args:
        root: Folder of the grid's export.
        manifest: Its names.
        cells: Finished ones and others; of the others there are no tables. What they name and do
            not have, such as the base on the data of another task, is taken from what was there.
        strips: Sample images.
        clean: Commands of launches, as they are to be published.
    """
    finished = [cell for cell in cells if cell.state == "finished"]
    before = Export(root)
    older = {cell.cell_id: cell for cell in before.cells()} if before.exists else {}
    texts = [json.dumps(_values(cell, clean), sort_keys=True) for cell in cells]
    _write(root, "cells", pa.table({_ID: [cell.cell_id for cell in cells], "cell": texts}))
    _write(root, "scores", _joined((cell.cell_id, cell.tables.scores()) for cell in finished))
    training = ((cell.cell_id, cell.tables.training()) for cell in finished)
    _write(root, "training", _joined(training))
    _write(root, "images", _joined((cell.cell_id, cell.statistics()) for cell in finished))
    for name in ("norms", "deviations"):
        _write(
            root, name, _joined(_keyed(cell, name, older.get(cell.cell_id)) for cell in finished)
        )
    _write(root, "samples", _strip_table(strips))
    for cached in (_table, _by_cell):
        cached.cache_clear()
    values = {"version": STORE_VERSION, "grid": manifest.grid, "baseline": manifest.baseline}
    # Last: an export without its manifest is none.
    write_json(root / MANIFEST, values)


def _values(cell: Cell, clean: Mapping[str, str]) -> dict[str, object]:
    launches = [vars(launch) for launch in cell.launches]
    return {
        "description": dict(cell.description),
        "state": cell.state,
        "reason": cell.reason,
        "mlflow_run_id": cell.mlflow_run_id,
        "budget": dict(cell.budget),
        "created_at": cell.created_at,
        "code": dict(cell.code),
        "launches": [
            {**launch, "command": clean.get(launch["command"], launch["command"])}
            for launch in launches
        ],
        "protocols": []
        if cell.state != "finished"
        else [
            {"suite": suite, "judge": judge, "protocol": dict(protocol)}
            for (suite, judge), protocol in cell.protocols().items()
        ],
    }


def _keyed(cell: Cell, name: Table, older: Cell | None) -> tuple[str, pa.Table | None]:
    """A probe's rows on the data of every key, some maybe only in an older export."""
    paths = cell.description["paths"]
    assert isinstance(paths, Mapping)
    tables = []
    for key in paths:
        rows = cell.tables.probe(name, key)
        if rows is None and older is not None:
            rows = older.tables.probe(name, key)
        if rows is not None:
            tables.append(rows.append_column("key", pa.repeat(key, rows.num_rows)))
    # Single numbers of an older export beside doubles of a store.
    joined = pa.concat_tables(tables, promote_options="permissive") if tables else None
    return cell.cell_id, joined


def _joined(parts: Iterable[tuple[str, pa.Table | None]]) -> pa.Table | None:
    tables = [
        rows.append_column(_ID, pa.repeat(cell_id, rows.num_rows))
        for cell_id, rows in parts
        if rows is not None
    ]
    return pa.concat_tables(tables, promote_options="permissive") if tables else None


def _strip_table(strips: Iterable[Strip]) -> pa.Table | None:
    rows = [
        {**vars(strip), "prompts": json.dumps(list(strip.prompts.items()))}
        for strip in sorted(strips, key=lambda strip: strip.key)
    ]
    return pa.Table.from_pylist(rows) if rows else None


def _write(root: Path, name: str, table: pa.Table | None) -> None:
    path = root / f"{name}.parquet"
    if table is None:
        path.unlink(missing_ok=True)
        return
    if name in _SINGLE:
        table = table.cast(pa.schema([_single(field) for field in table.schema]))
    doubles = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]

    def write(partial: Path) -> None:
        # Bytes of like significance lie together and compress: half the size.
        pq.write_table(
            table, partial, compression="zstd", compression_level=19,
            use_dictionary=texts, use_byte_stream_split=doubles,
        )  # fmt: skip

    write_atomically(path, write)


def _single(field: pa.Field) -> pa.Field:
    return field.with_type(pa.float32()) if pa.types.is_float64(field.type) else field
