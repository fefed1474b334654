"""``python -m soarbench plan``: memory and time of training, before anything is loaded."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from baselines.config import LoraConfig
from soarbench.common.errors import UserError
from soarbench.planning.demand import PlanOptions, Request, gpus, read_request
from soarbench.planning.memory_and_time import (
    GB,
    Demand,
    Gpu,
    TimePlan,
    gigabytes,
    memory_rows,
    time_plan,
)

if typing.TYPE_CHECKING:
    from soarbench.planning.fake_transformer import MetaModel

#: Named at most when something does not fit.
_MOST_REMEDIES = 3


@dataclass(frozen=True, kw_only=True)
class MethodPlan:
    """What one method needs.

    Attributes:
        memory: Bytes on each GPU, by what they are.
        time: Of an update.
        total: Weights, an adapter's included.
        trained: Weights that training changes.
    """

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
        self._activations: dict[str, float] = {}
        self._flops: dict[str, float] = {}

    def plan(self, demand: Demand, gpu: Gpu, utilisation: float) -> MethodPlan:
        """What a demand needs on a kind of GPU, of whose peak training reaches a share."""
        meta = self._meta(demand)
        key = repr((demand.lora, demand.model))
        if key not in self._flops:
            self._flops[key] = meta.forward_flops()
        sizes = meta.parameters()
        return MethodPlan(
            memory=self.memory(demand),
            time=time_plan(
                demand,
                gpu,
                forward_flops=self._flops[key],
                utilisation=utilisation,
            ),
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
        if key not in self._activations:
            self._activations[key] = meta.activation_bytes(demand.model_rows)
        architecture = demand.model.architecture()
        return memory_rows(demand, architecture, meta.parameters(), self._activations[key])

    def remedies(self, demand: Demand, memory_gb: float) -> list[str]:
        """The first few settings that would make a demand fit, with the memory each needs."""
        found: list[str] = []
        for words, changed in alternatives(demand):
            peak = gigabytes(self.memory(changed))
            if peak <= memory_gb:
                found.append(f"{words} ({peak:.0f} GB)")
            if len(found) == _MOST_REMEDIES:
                break
        return found


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


def plan(options: PlanOptions, words: Sequence[str], *, console: Console) -> int:
    """Print what every method needs.

    Returns:
        0.

    Raises:
        UserError: The request is wrong, or a method does not fit; says what would.
    """
    request = read_request(options, words)
    planner = Planner()
    plans = {}
    for method, demand in request.demands.items():
        with console.status(f"counting {method}"):
            plans[method] = planner.plan(demand, request.gpu, request.utilisation)
    console.print(plan_table(request, plans))
    for method, found in plans.items():
        if found.peak_gb > request.gpu.memory_gb:
            larger = [n for n, gpu in gpus().items() if gpu.memory_gb >= found.peak_gb]
            refuse(
                planner, method, request.demands[method],
                name=request.gpu_name,
                memory_gb=request.gpu.memory_gb,
                others=[f"gpu={name}" for name in larger[:1]],
            )  # fmt: skip
    return 0


def refuse(
    planner: Planner,
    method: str,
    demand: Demand,
    *,
    name: str,
    memory_gb: float,
    others: Sequence[str] = (),
) -> typing.NoReturn:
    """Say that a method does not fit, and what would.

    Args:
        planner: That counted it.
        method: Its name.
        demand: What it is.
        name: Of the GPU.
        memory_gb: Of the GPU.
        others: Further ways out.

    Raises:
        UserError: Always.
    """
    found = [*planner.remedies(demand, memory_gb), *others]
    remedy = ", ".join(found) if found else "a larger GPU, a smaller model or resolution"
    raise UserError(
        f"method={method} needs {gigabytes(planner.memory(demand)):.0f} GB on each GPU and {name} "
        f"has {memory_gb:.0f}: what would fit: {remedy}"
    )


def plan_table(request: Request, plans: Mapping[str, MethodPlan]) -> Table:
    """Memory by what it is, and time, one column a method."""
    first = next(iter(request.demands.values()))
    processes = first.num_processes
    table = Table(
        title=f"{first.model.name} at {first.model.resolution} px on {processes} x "
        f"{request.gpu_name}"
    )
    table.add_column("on each GPU")
    for method in plans:
        table.add_column(method, justify="right")

    def row(title: str, cells: Sequence[str]) -> None:
        table.add_row(title, *cells)

    row("parameters, million", [f"{p.total / 1e6:,.1f}" for p in plans.values()])
    row("trained, million", [f"{p.trained / 1e6:,.1f}" for p in plans.values()])
    table.add_section()
    names = dict.fromkeys(name for p in plans.values() for name in p.memory)
    for name in names:
        row(f"{name}, GB", [_gb(p.memory.get(name)) for p in plans.values()])
    row("peak, GB", [f"{p.peak_gb:.1f}" for p in plans.values()])
    table.add_section()
    equivalents = [f"{p.time.forward_equivalents:,.0f}" for p in plans.values()]
    row("forward equivalents an update", equivalents)
    row("seconds an update", [f"{p.time.seconds:.2f}" for p in plans.values()])
    totals = [p.time.seconds * request.steps[name] for name, p in plans.items()]
    row("a run of", [f"{request.steps[name]:,} updates" for name in plans])
    row("takes", [str(timedelta(seconds=round(total))) for total in totals])
    table.caption = (
        f"{request.gpu.memory_gb:.0f} GB a GPU; times at {request.utilisation:.0%} of its peak, "
        "without communication, sampling and rewards (utilisation=SHARE changes that)"
    )
    return table


def _gb(size: float | None) -> str:
    return "-" if size is None else f"{size / GB:.2f}"
