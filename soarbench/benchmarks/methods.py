"""``python -m soarbench bench``: what a training step and an evaluated image cost here."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from soarbench.common.errors import UserError
from soarbench.grid.expand import expand

#: SOAR's update without the loop around it: ours, and the naive one.
STEP, NAIVE, RACE = "step", "naive", "race"
#: Otherwise glibc keeps freed blocks of up to 32 MiB, and the peak tells of its habits and not of
#: the tensors that are alive. Slows the step, so times are taken without it.
_LIVE_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "131072"}

Results = Mapping[str, Mapping[str, float]]


def bench(arguments: Sequence[str], *, console: Console) -> int:
    """Measure every method, sampling and every judge, each in a process of its own.

    Returns:
        0.

    Raises:
        UserError: The configuration cannot be used, or a measurement fails.
    """
    overrides = list(arguments)
    if not any(word.startswith("grid=") for word in overrides):
        overrides.insert(0, "grid=reward_specific")
    plan = expand(overrides)
    methods = list(dict.fromkeys(c.method_name for c in plan.cells if c.training is not None))
    kinds = [*methods, "judging"]
    if "soar" in methods:
        kinds += [STEP, NAIVE, RACE]
    results = {}
    for kind in kinds:
        with console.status(f"measuring {kind}"):
            results[kind] = _measure(kind, overrides)
    model = plan.cells[0].model.name
    where = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    console.print(training_table({k: results[k] for k in methods}, f"{model} on {where}"))
    for line in comparison(results):
        console.print(line, highlight=False)
    console.print(judging_table(results["judging"]))
    return 0


def _measure(kind: str, overrides: Sequence[str]) -> dict[str, float]:
    """Run one measurement in a fresh process."""
    command = [sys.executable, "-m", "soarbench.benchmarks.worker", kind, *overrides]
    environment = os.environ | (_LIVE_MEMORY if kind in (STEP, NAIVE) else {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"measuring {kind} failed: {lines[-1]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def training_table(results: Results, title: str) -> Table:
    """Seconds and memory of an update, one row a method."""
    table = Table(title=f"An update: {title}")
    table.add_column("method")
    for column in ("rows", "seconds", "forward equivalents", "peak above the idle model, MiB"):
        table.add_column(column, justify="right")
    for kind, result in results.items():
        table.add_row(
            kind,
            f"{result['rows']:.0f}",
            f"{result['seconds']:.3f}",
            f"{result['forward_equivalents']:.0f}",
            f"{result['peak_mib']:.0f}",
        )
    return table


def comparison(results: Results) -> list[str]:
    """What SOAR's step saves over the naive one; empty where that was not measured."""
    if RACE not in results:
        return []
    race = results[RACE]
    ours, naive = results[STEP]["peak_mib"], results[NAIVE]["peak_mib"]
    return [
        f"SOAR's step without the loop: {race[STEP]:.3f} s, {ours:.0f} MiB of live memory; "
        f"written the obvious way: {race[NAIVE]:.3f} s, {naive:.0f} MiB",
        f"that is {race[STEP] / race[NAIVE]:.2f} of the time and {ours / naive:.2f} of the memory, "
        f"with relative differences of {race['loss_difference']:.1e} (loss) and "
        f"{race['gradient_difference']:.1e} (gradient)",
    ]


def judging_table(rates: Mapping[str, float]) -> Table:
    """Images a second."""
    table = Table(title="An evaluated image")
    table.add_column("what")
    table.add_column("images a second", justify="right")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.2f}")
    return table
