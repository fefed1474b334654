"""What of two runs of the same command is unlike, though it must not be.

Seconds, times, hosts and commands may differ; so may which entries share a file of a cache.
"""

from __future__ import annotations

import csv
import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow.parquet as pq

from soarbench.common.files import read_json, short_digest
from soarbench.store.training import TrainingFolder, read_training_log

#: Of no result: locks, what is said of a launch, and digests of files that have seconds in them.
_UNREAD = (
    "*.lock", ".lock", "launch.json", "live.json", "processes*.log", "owner.json",
    "trainings/*/manifest.json", "machine.jsonl",
)  # fmt: skip
#: Read by their entries.
_CONTAINERS = ("cache", "mlartifacts", "mlruns.db")
#: What a killed process may leave, and a finished run must not hold.
_LEFTOVERS = ("*.partial*", "checkpoint-*", "error.txt", ".write-test-*")
#: Columns of tables, and keys of records, that tell when, where and by which command.
_UNLIKE = frozenset(
    {"seconds", "spent/seconds", "launches", "created_at", "mlflow_run_id", "mlflow_run_ids"}
    | {"command", "git_commit"}
)


@dataclass(frozen=True)
class RunFolder:
    """Where a run has its store and its reports."""

    root: Path

    @property
    def store(self) -> Path:
        """Its output_dir."""
        return self.root / "runs"

    @property
    def results(self) -> Path:
        """Its results_dir."""
        return self.root / "results"

    @property
    def words(self) -> tuple[str, str]:
        """Settings that have a run work here."""
        return f"output_dir={self.store}", f"results_dir={self.results}"


def differences(expected: RunFolder, actual: RunFolder) -> list[str]:
    """A line for each thing that is unlike, or was left over; none where all is well."""
    return [
        *_unlike(_stored(expected.store), _stored(actual.store), ""),
        *_unlike(_reported(expected.results), _reported(actual.results), "results/"),
        *_unlike_caches(expected.store / "cache", actual.store / "cache"),
        *_unlike(_logged(expected.store), _logged(actual.store), "MLflow: "),
        *(f"{path.relative_to(actual.root)}: left over" for path in leftovers(actual.root)),
    ]


def leftovers(folder: Path) -> list[Path]:
    """What a process that was killed left, and no other one took away."""
    return sorted({path for pattern in _LEFTOVERS for path in folder.rglob(pattern)})


def _unlike(expected: Mapping[str, object], actual: Mapping[str, object], kind: str) -> list[str]:
    lines = []
    for name in sorted(expected.keys() | actual.keys()):
        if name not in actual:
            lines.append(f"{kind}{name}: missing")
        elif name not in expected:
            lines.append(f"{kind}{name}: nothing the like was made without kills")
        elif expected[name] != actual[name]:
            lines.append(f"{kind}{name}: differs")
    return lines


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path.relative_to(folder)), path


def _stored(store: Path) -> dict[str, object]:
    """Every file of a store by its path, without what may differ."""
    return {
        name: _content(path)
        for name, path in _files(store)
        if Path(name).parts[0] not in _CONTAINERS
        and not any(path.match(pattern) for pattern in _UNREAD)
    }


def _content(path: Path) -> object:
    if path.name == "training.jsonl":
        # Steps that were trained twice stand there twice.
        logged = read_training_log(TrainingFolder(path.parent))
        return {name: value for name, value in logged.items() if name[1] not in _UNLIKE}
    reader = _READERS.get(Path(path.name.removesuffix(".copy")).suffix)
    return short_digest(path.read_bytes()) if reader is None else reader(path)


def _json(path: Path) -> object:
    values = {key: value for key, value in read_json(path).items() if key not in _UNLIKE}
    extents = values.get("extents")
    # In the order in which parts of a suite were finished.
    if isinstance(extents, list):
        values["extents"] = sorted(extents, key=json.dumps)
    return values


def _parquet(path: Path) -> object:
    table = pq.read_table(path)
    # Of the log of a training; scores are compared by their bytes.
    if "key" not in table.column_names:
        return short_digest(path.read_bytes())
    return [row for row in table.to_pylist() if row["key"] not in _UNLIKE]


def _csv(path: Path) -> object:
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    kept = [row for row in rows if not _UNLIKE & {row.get("counter"), row.get("metric")}]
    return [{key: value for key, value in row.items() if key not in _UNLIKE} for row in kept]


_READERS: Mapping[str, Callable[[Path], object]] = {
    ".json": _json,
    ".parquet": _parquet,
    ".csv": _csv,
}


def _reported(results: Path) -> dict[str, object]:
    """Tables for programs by their content; of pages and figures, which show seconds, the names."""
    return {name: _csv(path) if path.suffix == ".csv" else None for name, path in _files(results)}


def _unlike_caches(expected: Path, actual: Path) -> list[str]:
    """Entries that both have: which were needed, and which share a file, depends on who did it."""
    # Loads torch.
    from soarbench.models.tensor_store import TensorStore

    lines = []
    for folder in sorted({path.parent for path in expected.rglob("*.safetensors")}):
        name = folder.relative_to(expected)
        stored, other = TensorStore(folder), TensorStore(actual / name)
        for key in sorted(set(stored) & set(other)):
            here, there = stored[key], other[key]
            if here.keys() != there.keys() or any(not here[k].equal(there[k]) for k in here):
                lines.append(f"cache/{name}: {key} differs")
    return lines


def _logged(store: Path) -> dict[str, object]:
    """Cells in MLflow's own store by their ids, with what each has; runs that still run."""
    path = store / "mlruns.db"
    if not path.is_file():
        return {}
    # Its tables, and not its client: that would import MLflow, and keep quiet about doubled points.
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        runs = database.execute("SELECT run_uuid, status, artifact_uri FROM runs").fetchall()
        cells = defaultdict[str, list[object]](list)
        for run, status, artifacts in runs:
            tags = dict(database.execute("SELECT key, value FROM tags WHERE run_uuid=?", (run,)))
            if tags.get("kind") == "cell":
                values = [status, _points(database, run), _params(database, run)]
                values.append(_checkpoints(database, run))
                cells[f"run of {tags['cell_id']}"].append([*values, _artifacts(artifacts)])
            elif status == "RUNNING":
                cells["launches that still run"].append(run)
    return dict(cells)


def _points(database: sqlite3.Connection, run: str) -> list[tuple[object, ...]]:
    """A run's metrics; a point that was logged at two times stands there twice."""
    rows = database.execute(
        "SELECT key, step, value, is_nan FROM metrics WHERE run_uuid=? ORDER BY 1, 2, 3, 4", (run,)
    )
    return [row for row in rows if row[0] not in _UNLIKE and not row[0].startswith("system/")]


def _params(database: sqlite3.Connection, run: str) -> list[tuple[object, ...]]:
    sql = "SELECT key, value FROM params WHERE run_uuid=? ORDER BY 1"
    return database.execute(sql, (run,)).fetchall()


def _checkpoints(database: sqlite3.Connection, run: str) -> list[tuple[object, ...]]:
    """A run's logged models with their scores; one that was made twice stands there twice."""
    sql = (
        "SELECT name, status, metric_name, metric_step, metric_value FROM logged_models "
        "JOIN logged_model_metrics USING (model_id) "
        "WHERE source_run_id=? AND lifecycle_stage='active' ORDER BY 1, 3, 4, 5"
    )
    return database.execute(sql, (run,)).fetchall()


def _artifacts(uri: str) -> list[tuple[str, object]]:
    folder = Path(unquote(urlsplit(uri).path))
    # The page's pictures have a time and a random part in their names.
    return [
        (name.partition("+timestamp+")[0] + path.suffix, _content(path))
        for name, path in _files(folder)
    ]
