"""A grid without images or weights, to be published: one Parquet file a kind of table.

``cells.parquet`` holds a JSON text a cell (names, state, cost, launches, protocols), the other
files the rows of all cells together, so that what cells share is stored once. Numbers have as many
digits as ``_BITS`` and ``_COMPARED`` say; statistics of images are means of a prompt's.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from soarbench.common.errors import DamagedFile, StoreError
from soarbench.common.files import read_json, write_atomically, write_json
from soarbench.common.provenance import STORE_VERSION
from soarbench.store.cells import FINISHED, Cell, launch_of
from soarbench.store.tables import Facts, Table, labelled, read_table

#: Names the grid of an export.
MANIFEST = "export.json"
_ID, _REMEDY = "cell_id", "export the grid again"
_QUALITY = 85
#: What tells each table from the others; of another version's, readers say what they miss.
_COLUMNS = {
    "cells": {"cell"}, "scores": {_ID}, "training": {_ID, "key", "value"}, "images": {_ID},
    "norms": {_ID, "norm", "key"}, "exposure": {_ID, "measure", "key"}, "robustness": {_ID},
    "samples": {_ID, "task", "step", "jpeg", "prompts"},
}  # fmt: skip
#: What is stored as single numbers.
_SINGLE = {"scores", "images", "norms", "exposure"}
#: Bits of a number, since there are many: off by .000001 of its size at most where verdicts come
#: from it (a mean of many by less), .00003 in logs, and .016 in what figures alone show, of which
#: a step's mean is off by .004.
_BITS = {"scores": 20, "norms": 20, "exposure": 20, "training": 15, "images": 6}
#: Of what a table compares, while figures alone show the other statistics: .00012.
_COMPARED = {"diversity": 13, "lpips": 13, "vendi": 13}
#: Of a cell as ``cells.parquet`` has it, beside its launches and protocols.
_PLAIN = ("description", "state", "reason", "mlflow_run_id", "budget", "created_at", "code")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``export.json`` says of how a grid is reported.

    Attributes:
        baseline: Method that differences are taken to.
        checkpoint_rule: Which step of every curve the figures mark; None in older exports.
        show_published: Whether the paper's curves were made as these.
    """

    grid: str
    baseline: str
    checkpoint_rule: str | None = None
    show_published: bool = False


@dataclass(frozen=True)
class Export:
    """The folder of an exported grid."""

    root: Path

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return (self.root / MANIFEST).is_file()

    def manifest(self) -> Manifest:
        """The manifest; ``StoreError`` where it is of another version."""
        values = read_json(self.root / MANIFEST)
        version = values.get("version")
        if version != STORE_VERSION or not {"grid", "baseline"} <= values.keys():
            raise StoreError(
                f"{self.root / MANIFEST} is of store version {version}, and this soarbench reads "
                f"{STORE_VERSION}; install the soarbench that wrote it"
            )
        rule = values.get("checkpoint_rule")
        return Manifest(
            grid=str(values["grid"]), baseline=str(values["baseline"]),
            checkpoint_rule=None if rule is None else str(rule),
            show_published=bool(values.get("show_published")),
        )  # fmt: skip

    def cells(self) -> list[Cell]:
        """Every cell that was exported, finished or not."""
        self.manifest()
        table = _read(self.root / "cells.parquet")
        if table is None:
            raise DamagedFile(f"{self.root / 'cells.parquet'} is missing; {_REMEDY}")
        return [
            Cell(
                tables=_ExportedTables(root=self.root, values=values),
                launches=tuple(map(launch_of, values["launches"])),
                **{name: values[name] for name in _PLAIN},
            )
            for values in map(json.loads, table["cell"].to_pylist())
        ]

    def strips(self) -> list[Strip]:
        """The sample images of all cells."""
        table = _read(self.root / "samples.parquet")
        rows = [] if table is None else table.to_pylist()
        return [Strip(**{**row, "prompts": dict(json.loads(row["prompts"]))}) for row in rows]


def _read(path: Path) -> pa.Table | None:
    """A table of an export; ``DamagedFile`` where it is none of its name."""
    table = read_table(path, _REMEDY)
    lacking = _COLUMNS[path.stem].difference([] if table is None else table.column_names)
    if table is not None and lacking:
        raise DamagedFile(f"{path} is damaged (it has no {', '.join(sorted(lacking))}); {_REMEDY}")
    return table


# Cells ask for their rows one by one, and a thousand of them share a file.
@functools.lru_cache(maxsize=64)
def _by_cell(path: Path, written: int | None) -> Mapping[str, pa.Table]:
    """The rows of each cell, which follow each other; none where nothing was written."""
    table = None if written is None else _read(path)
    if table is None:
        return {}
    tables, start, rows = {}, 0, table.drop_columns([_ID])
    for cell_id, own in itertools.groupby(table[_ID].to_pylist()):
        size = sum(1 for _ in own)
        # A slice shares the table's memory; a filter a cell would scan and copy it every time.
        tables[cell_id] = rows.slice(start, size)
        start += size
    return tables


@dataclass(frozen=True, kw_only=True)
class _ExportedTables:
    """See ``CellTables``; ``values`` are a cell's in ``cells.parquet``."""

    root: Path
    values: Mapping[str, Any]

    def _rows(self, name: str, *, is_needed: bool = False) -> pa.Table | None:
        path, cell_id = self.root / f"{name}.parquet", self.values["description"][_ID]
        written = path.stat().st_mtime_ns if path.is_file() else None
        rows = _by_cell(path, written).get(cell_id)
        if rows is None and is_needed:
            raise StoreError(f"{path} is missing or has no rows of {cell_id}; {_REMEDY}")
        return rows

    def scores(self) -> pa.Table:
        rows = self._rows("scores", is_needed=True)
        assert rows is not None
        # Single on disk, and double where it is computed with, as in a store.
        place = rows.schema.get_field_index("value")
        return rows.set_column(place, "value", rows["value"].cast(pa.float64()))

    def training(self) -> pa.Table | None:
        is_base = self.values["description"]["data_key"] is None
        return None if is_base else self._rows("training", is_needed=True)

    def probe(self, name: Table, key: str = "") -> pa.Table | None:
        rows = self._rows(name)
        if rows is None or name in ("images", "robustness"):
            return rows
        rows = rows.filter(pc.equal(rows["key"], key)).drop_columns(["key"])
        return rows if rows.num_rows else None

    def protocols(self) -> dict[tuple[str, str], Facts]:
        entries = self.values["protocols"]
        return {(entry["suite"], entry["judge"]): entry["protocol"] for entry in entries}

    def image_file(self, step: int, prompt_id: str, image_index: int) -> None:
        """None: an export has strips alone."""

    def strip(self, task: str, step: int) -> Image.Image | None:
        images = (row["jpeg"] for row in self._samples(task) if row["step"] == step)
        return next((Image.open(io.BytesIO(jpeg)) for jpeg in images), None)

    def strip_prompts(self, task: str) -> dict[str, str]:
        samples = self._samples(task)
        return dict(json.loads(samples[0]["prompts"])) if samples else {}

    def _samples(self, task: str) -> list[dict[str, Any]]:
        rows = self._rows("samples")
        return [] if rows is None else [row for row in rows.to_pylist() if row["task"] == task]


@dataclass(frozen=True, kw_only=True)
class Strip:
    """Small sample images of a cell beside each other; prompts by id, in the strip's order."""

    cell_id: str
    task: str
    step: int
    prompts: Mapping[str, str]
    jpeg: bytes

    @property
    def key(self) -> tuple[str, str, int]:
        """What there is one strip of."""
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
    """Write cells in the place of what was there; ``clean`` are launches' commands as published."""
    # What cells name and do not have, such as the base on the data of another task, is taken over.
    before = Export(root)
    older = {cell.cell_id: cell for cell in before.cells()} if before.exists else {}
    # Sorted, so that the same cells give the same bytes: exports are kept in git.
    texts = [json.dumps(_values(cell, clean), sort_keys=True) for cell in cells]
    _write(root, "cells", pa.table({_ID: [cell.cell_id for cell in cells], "cell": texts}))
    kinds: dict[str, Callable[[Cell], pa.Table | None]] = {
        "scores": lambda cell: cell.tables.scores(),
        "training": lambda cell: cell.tables.training(),
        "images": _by_prompt,
        "norms": lambda cell: _on_all_data(cell, "norms", older.get(cell.cell_id)),
        "robustness": Cell.robustness,
        "exposure": lambda cell: _on_all_data(cell, "exposure", older.get(cell.cell_id)),
    }
    finished = [cell for cell in cells if cell.state == FINISHED]
    # One kind after the other: no more than one is in memory at a time.
    for name, rows_of in kinds.items():
        _write(root, name, _joined(_ID, ((cell.cell_id, rows_of(cell)) for cell in finished)))
    ordered = sorted(strips, key=lambda strip: strip.key)
    rows = [{**vars(one), "prompts": json.dumps([*one.prompts.items()])} for one in ordered]
    _write(root, "samples", pa.Table.from_pylist(rows) if rows else None)
    # Time stamps of some file systems are too coarse to tell what was written from what was there.
    _by_cell.cache_clear()
    # Last: an export without its manifest is none.
    write_json(root / MANIFEST, {"version": STORE_VERSION, **vars(manifest)})


def _values(cell: Cell, clean: Mapping[str, str]) -> dict[str, object]:
    """A cell as ``cells.parquet`` has it; protocols as a list, since JSON has no pairs as keys."""
    protocols = cell.protocols() if cell.state == FINISHED else {}
    return {
        **{name: getattr(cell, name) for name in _PLAIN},
        "launches": [
            {**vars(launch), "command": clean.get(launch.command, launch.command)}
            for launch in cell.launches
        ],
        "protocols": [
            {"suite": suite, "judge": judge, "protocol": protocol}
            for (suite, judge), protocol in protocols.items()
        ],
    }


def _by_prompt(cell: Cell) -> pa.Table | None:
    """Statistics of images as means of a prompt's, which is what is resampled: half the size."""
    rows = cell.statistics()
    if rows is None:
        return None
    keys = ["step", "suite", "prompt_id"]
    names = [name for name in rows.column_names if name not in (*keys, "image_index")]
    means = rows.group_by(keys, use_threads=False).aggregate([(name, "mean") for name in names])
    return means.rename_columns([name.removesuffix("_mean") for name in means.column_names])


def _on_all_data(cell: Cell, name: Table, older: Cell | None) -> pa.Table | None:
    """A probe's rows on the data of every key, some maybe only in an older export."""
    probes = {}
    for key in cell.description["paths"]:
        probes[key] = cell.tables.probe(name, key)
        if probes[key] is None and older is not None:
            probes[key] = older.tables.probe(name, key)
    return _joined("key", probes.items())


def _joined(label: str, parts: Iterable[tuple[str, pa.Table | None]]) -> pa.Table | None:
    tables = [labelled(rows, **{label: value}) for value, rows in parts if rows is not None]
    # Single numbers of an older export stand beside doubles of a store.
    return pa.concat_tables(tables, promote_options="permissive") if tables else None


def _rounded(table: pa.Table, bits: int) -> pa.Table:
    """Numbers to so many bits, as zeros compress away; whole ones, which count, as they are."""
    for i, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column, kept_bits = table.column(i), _COMPARED.get(field.name, bits)
            values = column.to_numpy()
            mantissa, exponent = np.frexp(values)
            short = np.ldexp(np.round(np.ldexp(mantissa, kept_bits)), exponent - kept_bits)
            kept = np.where(values == np.round(values), values, short)
            absent = column.is_null().to_numpy()
            table = table.set_column(i, field, pa.array(kept, type=field.type, mask=absent))
    return table


def _write(root: Path, name: str, table: pa.Table | None) -> None:
    path = root / f"{name}.parquet"
    if table is None:
        path.unlink(missing_ok=True)
        return
    if name in _SINGLE:
        single = [
            field.with_type(pa.float32()) if pa.types.is_float64(field.type) else field
            for field in table.schema
        ]
        table = table.cast(pa.schema(single))
    if name in _BITS:
        table = _rounded(table, _BITS[name])
    write = functools.partial(
        pq.write_table, table, compression="zstd", compression_level=19,
        use_dictionary=[one.name for one in table.schema if pa.types.is_string(one.type)],
        # Bytes of like significance lie together and compress: half the size.
        use_byte_stream_split=[x.name for x in table.schema if pa.types.is_floating(x.type)],
    )  # fmt: skip
    write_atomically(path, write)
