"""What a run needs, counted before anything is loaded, and what would fit where it does not."""

from __future__ import annotations

import itertools
import logging
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from baselines.config import LoraConfig
from soarbench.common.errors import UserError
from soarbench.config.run import ProcessesConfig
from soarbench.grid.cell import CellConfig
from soarbench.models.base import UnknownArchitecture
from soarbench.planning.demand import demand_of
from soarbench.planning.memory_and_time import (
    GB,
    Demand,
    Gpu,
    Passes,
    TimePlan,
    gigabytes,
    memory_rows,
    time_plan,
)

if typing.TYPE_CHECKING:
    from soarbench.planning.fake_transformer import MetaModel

log = logging.getLogger(__name__)
#: Named at most when something does not fit.
_MOST_REMEDIES = 3


@dataclass(frozen=True, kw_only=True)
class MethodPlan:
    """What one method needs: bytes on each GPU by what they are, and numbers of weights."""

    memory: Mapping[str, float]
    time: TimePlan
    total: int
    trained: int

    @property
    def peak_gb(self) -> float:
        """All memory together."""
        return gigabytes(self.memory)


class Planner:
    """Plans demands; counts like demands once."""

    def __init__(self) -> None:
        self._passes: dict[str, Passes] = {}
        self._flops: dict[str, float] = {}

    def plan(self, demand: Demand, gpu: Gpu, utilisation: float) -> MethodPlan:
        """What a demand needs on a kind of GPU, of whose peak training reaches a share."""
        meta = self._meta(demand)
        key = repr((demand.lora, demand.model))
        if key not in self._flops:
            self._flops[key], _ = meta.forward()
        sizes = meta.parameters()
        return MethodPlan(
            memory=self.memory(demand),
            time=time_plan(demand, gpu, forward_flops=self._flops[key], utilisation=utilisation),
            total=sizes.total,
            trained=sizes.trained,
        )

    def _meta(self, demand: Demand) -> MetaModel:
        from soarbench.planning.fake_transformer import MetaModel

        return MetaModel(demand.model.architecture(), demand.model, demand.training, demand.lora)

    def memory(self, demand: Demand) -> dict[str, float]:
        """Bytes on each GPU, by what they are."""
        meta, training = self._meta(demand), demand.training
        mode = (training.gradient_checkpointing, training.mixed_precision, demand.model_rows)
        key = repr((demand.lora, mode, demand.model.resolution, demand.model.max_sequence_length))
        if key not in self._passes:
            self._passes[key] = meta.passes(demand.model_rows)
        architecture = demand.model.architecture()
        return memory_rows(demand, architecture, meta.parameters(), self._passes[key])

    def remedies(self, demand: Demand, memory_gb: float) -> list[str]:
        """The first few settings that would make a demand fit, with the memory each needs."""
        # One by one, since each is counted: seconds for a model of full size.
        peaks = ((words, gigabytes(self.memory(new))) for words, new in alternatives(demand))
        fitting = (f"{words} ({peak:.0f} GB)" for words, peak in peaks if peak <= memory_gb)
        return list(itertools.islice(fitting, _MOST_REMEDIES))


def alternatives(demand: Demand) -> Iterator[tuple[str, Demand]]:
    """Changes that save memory, as they are typed; those that leave the result alone first."""
    training = demand.training
    checkpointing = "training.gradient_checkpointing=true"

    def changed(**values: typing.Any) -> Demand:  # noqa: ANN401 (fields of ``training``)
        return replace(demand, training=replace(training, **values))

    spare = changed(gradient_checkpointing=True)
    if not training.gradient_checkpointing:
        yield checkpointing, spare
    sizes = [n for n in range(demand.micro_batch_size - 1, 0, -1) if demand.rows % n == 0]
    for size in dict.fromkeys([*sizes[:1], *sizes[-1:]]):
        yield f"training.micro_batch_size={size}", changed(micro_batch_size=size)
    if sizes and not training.gradient_checkpointing:
        words = f"training.micro_batch_size=1 {checkpointing}"
        yield words, changed(micro_batch_size=1, gradient_checkpointing=True)
    # bitsandbytes takes no weights in shards.
    could_shard = demand.parallelism == "ddp" and demand.optim.optimizer == "adamw"
    if could_shard and demand.num_processes > 1:
        yield "launcher.parallelism=fsdp2", replace(demand, parallelism="fsdp2")
        words = f"launcher.parallelism=fsdp2 {checkpointing}"
        yield words, replace(spare, parallelism="fsdp2")
    if demand.lora is None and demand.parallelism == "ddp":
        eight_bit = replace(demand.optim, optimizer="adamw_8bit")
        yield f"optim.optimizer=adamw_8bit {checkpointing}", replace(spare, optim=eight_bit)
    if demand.lora is None:
        adapter = replace(spare, lora=demand.model.adapted(LoraConfig()))
        yield f"lora={{rank:32,alpha:64}} {checkpointing}", adapter


def refuse(
    planner: Planner,
    method: str,
    demand: Demand,
    *,
    name: str,
    memory_gb: float,
    others: Sequence[str] = (),
) -> typing.NoReturn:
    """Say by ``UserError`` that a method does not fit on a GPU, and what would or which others."""
    ways_out = [*planner.remedies(demand, memory_gb), *others]
    remedy = ", ".join(ways_out) if ways_out else "a larger GPU, a smaller model or resolution"
    raise UserError(
        f"method={method} needs {gigabytes(planner.memory(demand)):.0f} GB on each GPU and {name} "
        f"has {memory_gb:.0f}: what would fit: {remedy}"
    )


def require_fit(
    cells: Sequence[CellConfig], processes: ProcessesConfig, *, name: str, memory: float
) -> None:
    """Say what training needs of GPUs of ``memory`` bytes; ``UserError`` where it cannot fit."""
    planner = Planner()
    demands: dict[str, tuple[str, Demand]] = {}
    for cell in cells:
        if cell.training is not None:
            demand = demand_of(cell, processes)
            # Cells of other seeds need the same, and counting takes seconds.
            demands.setdefault(repr(demand), (cell.method_name, demand))
    for method, demand in demands.values():
        try:
            needed = gigabytes(planner.memory(demand))
        # Whoever brings another model may know that it fits, where a download is needed to tell.
        except UnknownArchitecture as error:
            log.info("whether training fits is not checked: %s", error)
            return
        log.info("%s needs %.0f GB of the %.0f of %s", method, needed, memory / GB, name)
        if needed > memory / GB:
            refuse(planner, method, demand, name=name, memory_gb=memory / GB)
