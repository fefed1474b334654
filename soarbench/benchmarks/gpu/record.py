"""What was measured on one machine, as JSON, and the table of all machines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soarbench.benchmarks.gpu.measurements import MEASUREMENTS
from soarbench.common.files import read_json, write_atomically, write_json

#: States of a measurement.
MEASURED, FAILED, MISSING = "measured", "failed", "not measured"
_NONE_YET = "No GPU has been measured yet: `make gpu` on a machine with one writes this table.\n"
_HEAD = """# Measured on GPUs

Written by `make gpu`; [docs/gpu.md](../../docs/gpu.md) says what each number means. Weights are
random, of the published sizes: times and memory are those of trained ones, images and losses mean
nothing.
"""
#: A column a value: its head, and how it is printed.
_TRAINING = {
    "seconds": ("s an update", "{:.3f}"),
    "spread": ("spread", "{:.1%}"),
    "rows_per_second": ("rows/s", "{:.2f}"),
    "mfu": ("MFU", "{:.1%}"),
    "idle_share": ("GPU idle", "{:.1%}"),
    "peak_gb": ("peak, GB", "{:.2f}"),
    "reserved_gb": ("reserved, GB", "{:.2f}"),
    "planned_gb": ("plan, GB", "{:.2f}"),
    "peak_over_plan": ("peak / plan", "{:.3f}"),
}


@dataclass
class Record:
    """One machine's measurements by name; written whole, so that a run may be cut off anywhere."""

    path: Path
    facts: Mapping[str, object]
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)

    def expect(self, names: Iterable[str]) -> None:
        """Say of each that the run did not come to it, until it does."""
        for name in names:
            self.entries[name] = {"state": MISSING, "reason": "the run was cut off before it"}
        self.write()

    def enter(self, name: str, state: str, *, reason: str = "", **entry: object) -> None:
        """Enter a measurement; ``reason`` says why it failed or was left out."""
        self.entries[name] = {"state": state, **({"reason": reason} if reason else {}), **entry}
        self.write()

    def write(self) -> None:
        """Put it onto the disk."""
        write_json(self.path, {"facts": dict(self.facts), "measurements": self.entries})

    @classmethod
    def read(cls, path: Path) -> Record:
        """A record that was written."""
        stored: Any = read_json(path)
        return cls(path, stored["facts"], stored["measurements"])


def file_name(gpu: str) -> str:
    """Of a GPU's record: NVIDIA H100 80GB HBM3 -> nvidia-h100-80gb-hbm3.json."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") + ".json"


def write_table(folder: Path) -> str:
    """Make ``README.md`` again from all records of GPUs in a folder. -> its text."""
    records = [Record.read(path) for path in sorted(folder.glob("*.json"))]
    on_gpus = [record for record in records if record.facts["device"] == "cuda"]
    text = _HEAD + "\n" + ("\n".join(map(markdown, on_gpus)) or _NONE_YET)
    write_atomically(folder / "README.md", lambda path: path.write_text(text))
    return text


def markdown(record: Record) -> str:
    """One machine's tables."""
    facts = record.facts
    machine = ", ".join(
        f"{name} {facts[name]}" for name in ("torch", "cuda", "driver") if facts.get(name)
    )
    lines = [
        f"## {facts['name']}",
        "",
        f"{machine}, commit {facts['commit']}, {facts['date']}.",
        "",
    ]
    lines += _training_table(record)
    lines += _other_table(record)
    gaps = [
        f"- {name}: {entry['state']} ({entry['reason']})"
        for name, entry in record.entries.items()
        if "reason" in entry
    ]
    lines += ["", "Not or not wholly measured:", "", *gaps] if gaps else []
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    body = [_row(row) for row in rows]
    return [_row(heads), _row(["---", *["---:"] * (len(heads) - 1)]), *body, ""] if body else []


def _training_table(record: Record) -> list[str]:
    """Seconds and memory of updates, and beside an option what it gains."""
    values = {name: entry.get("values", {}) for name, entry in record.entries.items()}
    rows = []
    for measurement in MEASUREMENTS:
        row = values.get(measurement.name, {})
        if "seconds" not in row:
            continue
        base = values.get(measurement.compared_with, {}).get("seconds")
        gain = f"{base / row['seconds']:.2f} x {measurement.compared_with}" if base else "-"
        cells = [_printed(row.get(key), spec) for key, (_, spec) in _TRAINING.items()]
        rows.append([measurement.name, *cells, gain])
    heads = [head for head, _ in _TRAINING.values()]
    return _table(["update", *heads, "speed"], rows)


def _other_table(record: Record) -> list[str]:
    """Everything that is no update: one row a number."""
    training = {m.name for m in MEASUREMENTS if m.kind == "training"}
    rows = [
        [f"{name}: {what}", _printed(value, "{:.4g}")]
        for name, entry in record.entries.items()
        if name not in training
        for what, value in entry.get("values", {}).items()
    ]
    return _table(["what", "measured"], rows)


def _printed(value: object, spec: str) -> str:
    """A number as a column prints it; a dash where there is none."""
    if value is None or isinstance(value, (list, dict)):
        return "-"
    return str(value) if isinstance(value, (str, bool)) else spec.format(value)
