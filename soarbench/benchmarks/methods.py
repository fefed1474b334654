"""``python -m soarbench bench``: what a training step and an evaluated image cost here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from soarbench.benchmarks.tables import number_table, this_machine
from soarbench.common.errors import UserError
from soarbench.grid.expand import expand

#: SOAR's update without the loop around it: ours, and the naive one.
STEP, NAIVE, RACE = "step", "naive", "race"
# Otherwise glibc keeps freed blocks of up to 32 MiB, and the peak tells of its habits and not of
# the tensors that are alive. Slows the step, so times are taken without it.
LIVE_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "131072"}

Results = Mapping[str, Mapping[str, float]]


def bench(arguments: Sequence[str], *, console: Console) -> int:
    """Measure every method, sampling and every judge.

    ``UserError`` where the configuration cannot be used or a measurement fails.
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
    title = f"{plan.cells[0].model.name} on {this_machine()}"
    console.print(training_table({name: results[name] for name in methods}, title))
    for line in comparison(results):
        console.print(line, highlight=False)
    console.print(judging_table(results["judging"]))
    return 0


def _measure(kind: str, overrides: Sequence[str]) -> dict[str, float]:
    """One measurement, by ``worker``."""
    # A fresh process each: a peak is of a process, and memory that an earlier measurement left to
    # the allocator would hide the next one's.
    command = [sys.executable, "-m", "soarbench.benchmarks.worker", kind, *overrides]
    environment = os.environ | (LIVE_MEMORY if kind in (STEP, NAIVE) else {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"measuring {kind} failed: {lines[-1]}")
    # Libraries may have written to stdout before.
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def training_table(results: Results, title: str) -> Table:
    """Seconds and memory of an update, one row a method."""
    formats = {"rows": ".0f", "seconds": ".3f", "forward_equivalents": ".0f", "peak_mib": ".0f"}
    rows = (
        (kind, *(format(result[key], spec) for key, spec in formats.items()))
        for kind, result in results.items()
    )
    heads = ("method", "rows", "seconds", "forward equivalents", "peak above the idle model, MiB")
    return number_table(f"An update: {title}", heads, rows)


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
    """Images a second of sampling and of every judge."""
    rows = ((name, f"{rate:.2f}") for name, rate in rates.items())
    return number_table("An evaluated image", ("what", "images a second"), rows)
