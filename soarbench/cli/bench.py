"""``python -m soarbench bench full_size``; torch is imported only once it measures."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from soarbench.benchmarks.tables import number_table
from soarbench.common.errors import ConfigError
from soarbench.config.keys import split
from soarbench.config.overrides import parse_overrides
from soarbench.planning.demand import PlanOptions, read_request
from soarbench.planning.memory_and_time import GB

# SOAR with an adapter on few tokens in float32, as a machine without a GPU can run it; every value
# can be set on the command line, since the last of two wins.
DEFAULTS = (
    "device=cpu",
    "model=sd35_medium",
    "method=soar",
    "lora={rank:32,alpha:64}",
    "model.dtype=float32",
    "model.resolution=128",
    "model.max_sequence_length=0",
    "training.batch_size=1",
    "training.micro_batch_size=1",
    "training.mixed_precision=no",
    "training.gradient_checkpointing=true",
)


def run_words(_options: object, words: Sequence[str]) -> list[str]:
    """The settings of a run that an update is taken with."""
    chosen = {split(word).key for word in words}
    return [*(word for word in DEFAULTS if split(word).key not in chosen), *words]


def full_size(words: Sequence[str], *, console: Console) -> int:
    """Build a transformer of the published size, take one update, and print what it took.

    ``UserError`` where the request (settings of a run) is wrong or the memory does not suffice.
    """
    words = run_words(None, words)
    request = read_request(PlanOptions(), words)
    if len(request.demands) != 1:
        raise ConfigError(f"method={','.join(request.demands)}: one update of one method; name one")
    (demand,) = request.demands.values()
    from soarbench.benchmarks.full_size import measure, planned_bytes, require_memory
    from soarbench.models.devices import torch_device

    device = torch_device(parse_overrides(words).text("device") or "cpu")
    planned = planned_bytes(demand)
    require_memory(planned, device)
    with console.status("building the model and taking one update"):
        rows = measure(demand, device)
    kind = "all weights" if demand.lora is None else f"LoRA of rank {demand.lora.rank}"
    table = number_table(
        f"One update of {demand.model.name} with random weights, {kind}, on {device}",
        ("what", "measured"),
        (rows | {"expected by plan, GB": f"{planned / GB:.2f}"}).items(),
    )
    table.caption = (
        f"{demand.training.batch_size} row(s) at {demand.model.resolution} px, "
        f"{demand.model.max_sequence_length} T5 tokens, {demand.model.dtype}"
    )
    console.print(table)
    return 0
