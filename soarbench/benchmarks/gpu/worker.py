"""One measurement of ``bench gpu`` in a process of its own, so that its peak memory is its own.

``python -m soarbench.benchmarks.gpu.worker KIND key=value ...`` prints a line of JSON after every
number, so that a process that is ended leaves what it had.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

import torch

from soarbench.benchmarks.gpu.machine import known_gpu
from soarbench.common.errors import UserError
from soarbench.config.overrides import parse_overrides
from soarbench.models.devices import torch_device
from soarbench.models.quiet import quiet_libraries
from soarbench.planning.demand import PlanOptions, read_request
from soarbench.planning.memory_and_time import GB, Demand, Gpu

EXIT_USER_ERROR = 2
Values = Mapping[str, object]
Report = Callable[[Values], None]
Measure = Callable[[Demand, torch.device, Gpu | None, Report], None]
# By name: a kind's libraries are of no use to the others.
KINDS = {
    "training": "training:measure_updates",
    "resume": "training:measure_resume",
    "sampling": "inference:measure_sampling",
    "judges": "judges:measure_judges",
    "laboratory": "laboratory:measure_laboratory",
}


def measure(kind: str, words: Sequence[str], report: Report) -> None:
    """Report what a kind of measurement gives, number by number."""
    device = torch_device(parse_overrides(words).text("device") or "cuda")
    module, _, function = KINDS[kind].partition(":")
    measured: Measure = getattr(import_module(f"{__package__}.{module}"), function)
    (demand,) = read_request(PlanOptions(), words).demands.values()
    measured(demand, device, _gpu(device), report)


def _gpu(device: torch.device) -> Gpu | None:
    if device.type != "cuda":
        return None
    card = torch.cuda.get_device_properties(device)
    return known_gpu(card.name, card.total_memory / GB)


def main(arguments: Sequence[str]) -> int:
    """Measure, and print each number as it comes; a reason why not goes to stderr, code 2."""
    kind, *words = arguments
    quiet_libraries()
    try:
        measure(kind, words, _print)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USER_ERROR
    return 0


def _print(values: Values) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
