"""``python -m soarbench bench gpu``: everything on this GPU, the most important first."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from soarbench.benchmarks.gpu.measurements import MEASUREMENTS, Measurement
from soarbench.benchmarks.gpu.record import (
    FAILED,
    MEASURED,
    MISSING,
    Record,
    file_name,
    write_table,
)
from soarbench.benchmarks.tables import number_table
from soarbench.common.errors import UserError
from soarbench.common.provenance import command_line
from soarbench.common.strict import did_you_mean
from soarbench.config.keys import Options, split
from soarbench.config.overrides import parse_overrides

#: Settings of every measurement; the last of two words of one key wins.
DEFAULTS = ("device=cuda", "model=sd35_medium")
#: A process that has less than this left would be ended before it has a number.
_LEAST_SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class GpuBenchOptions(Options):
    """What ``bench gpu`` takes beside the settings of a run.

    Attributes:
        minutes: All measurements together; what does not fit is left out, and the record says so.
        output: Folder of records.
        only: Names of measurements; empty: all.
    """

    minutes: float = 7
    output: str = "results/gpu"
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise ValueError(f"minutes={self.minutes}: must be more than 0")
        names = [measurement.name for measurement in MEASUREMENTS]
        for name in self.only:
            if name not in names:
                raise ValueError(
                    f"only={name}: is no measurement: {did_you_mean(name, names)}; --dry-run lists "
                    "them"
                )

    @property
    def chosen(self) -> list[Measurement]:
        """In order of importance."""
        return [m for m in MEASUREMENTS if not self.only or m.name in self.only]


def bench_gpu(
    options: GpuBenchOptions, words: Sequence[str], *, is_dry: bool, console: Console
) -> int:
    """Measure and record; ``is_dry`` only says whether and what. -> 0, or 1 when one failed.

    ``UserError`` where the machine has no GPU with enough memory, or torch is too old.
    """
    if find_spec("torch") is None:
        raise UserError(f"{sys.executable} has no torch: use the Python that has a CUDA torch")
    # Loads torch, after the words are known to be right.
    from soarbench.benchmarks.gpu.machine import facts, require_machine
    from soarbench.models.devices import torch_device

    keys = {split(word).key for word in words}
    words = [*(word for word in DEFAULTS if split(word).key not in keys), *words]
    name = parse_overrides(words).text("device") or "cuda"
    require_machine(name)
    if is_dry:
        _show_plan(options, console)
        return 0
    known = {**facts(torch_device(name)), "command": command_line(), "words": list(words)}
    record = Record(Path(options.output) / file_name(str(known["name"])), known)
    _measure_all(options, words, record, console)
    console.print(write_table(record.path.parent), markup=False, highlight=False, soft_wrap=True)
    console.print(f"written: {record.path}", highlight=False)
    return 1 if any(entry["state"] == FAILED for entry in record.entries.values()) else 0


def _show_plan(options: GpuBenchOptions, console: Console) -> None:
    rows = ((m.name, f"{m.seconds:.0f}") for m in options.chosen)
    console.print(number_table("What is measured here", ("what", "seconds at most"), rows))


def _measure_all(
    options: GpuBenchOptions, words: Sequence[str], record: Record, console: Console
) -> None:
    deadline = time.monotonic() + 60 * options.minutes
    record.expect(measurement.name for measurement in options.chosen)
    for measurement in options.chosen:
        seconds = min(measurement.seconds, deadline - time.monotonic())
        if seconds < _LEAST_SECONDS:
            reason = f"minutes={options.minutes:g} were over"
            record.enter(measurement.name, MISSING, reason=reason)
            continue
        with console.status(f"measuring {measurement.name}"):
            start = time.monotonic()
            state, reason, values = run_worker(measurement, words, seconds)
        took = time.monotonic() - start
        chosen = list(measurement.words)
        record.enter(measurement.name, state, reason=reason, took=took, words=chosen, values=values)
        console.print(f"{measurement.name}: {state} in {took:.0f} s {reason}", highlight=False)


def run_worker(
    measurement: Measurement, words: Sequence[str], seconds: float
) -> tuple[str, str, Mapping[str, object]]:
    """State, reason where it is not whole, and values that a process gave until it ended."""
    module = "soarbench.benchmarks.gpu.worker"
    command = [sys.executable, "-m", module, measurement.kind, *words, *measurement.words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, error = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            return FAILED, f"ended after {seconds:.0f} s", _values(out)
    if process.returncode == 0:
        return MEASURED, "", _values(out)
    lines = error.strip().splitlines() or [f"exit code {process.returncode}"]
    # Too large for this GPU is no failure of the program.
    return (MISSING if process.returncode == 2 else FAILED), lines[-1], _values(out)


def _values(out: str) -> dict[str, object]:
    """All numbers of a worker; libraries may have written between them."""
    values: dict[str, object] = {}
    for line in out.splitlines():
        if line.startswith("{"):
            values |= json.loads(line)
    return values
