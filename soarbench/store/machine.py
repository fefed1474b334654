"""How busy a machine was while it trained: sampled beside the training's log, as that comes."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from baselines.loop.disk import StorageError, writing

log = logging.getLogger(__name__)
#: Between two samples, of which one takes 0.3 ms on a CPU.
SECONDS = 10.0
_MEGA = 1e6
#: What a GPU says of itself, by MLflow's names.
Readings = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Sample:
    """What was seen at a time (Unix, seconds), by MLflow's names: percent, MB, watts."""

    time: float
    values: Mapping[str, float]


def sample(gpu: Readings | None) -> Sample:
    """The machine now, and its GPU."""
    memory = psutil.virtual_memory()
    values = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / _MEGA,
        "system_memory_usage_percentage": memory.percent,
        "process_memory_megabytes": psutil.Process().memory_info().rss / _MEGA,
    }
    return Sample(time.time(), values if gpu is None else {**values, **gpu()})


@contextlib.contextmanager
def sampling(path: Path, *, gpu: Readings | None, seconds: float = SECONDS) -> Iterator[None]:
    """Append a sample to a file now and then while the block runs, and one at its end."""
    ended = threading.Event()
    # The first call has nothing to compare with, and says 0.
    psutil.cpu_percent()

    def watch() -> None:
        is_over = False
        while not is_over:
            is_over = ended.wait(seconds)
            try:
                _append(path, sample(gpu))
            # What only describes a training must not end it.
            except (StorageError, OSError, RuntimeError, psutil.Error) as error:
                log.warning("%s is no longer written: %s", path, error)
                return

    thread = threading.Thread(target=watch, name="machine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _append(path: Path, one: Sample) -> None:
    with writing(path), path.open("a") as stream:
        # The newline first: it ends a line that a kill tore.
        stream.write("\n" + json.dumps({"time": one.time, "values": dict(one.values)}))


def read_samples(path: Path) -> list[Sample]:
    """What was seen, in order; torn lines are left out."""
    samples = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
            values = {str(name): float(value) for name, value in row["values"].items()}
            samples.append(Sample(float(row["time"]), values))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return samples
