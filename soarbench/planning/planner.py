"""What a run needs, counted before anything is loaded, and what would fit where it does not."""

from __future__ import annotations

import itertools
import logging
import math
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter

from baselines.config import LoraConfig, MethodConfig
from baselines.group_config import GroupConfig
from soarbench.common.errors import UserError
from soarbench.config.run import ProcessesConfig
from soarbench.grid.cell import CellConfig
from soarbench.models.base import UnknownArchitecture
from soarbench.planning.demand import demand_of
from soarbench.planning.memory_and_time import (
    GB,
    Demand,
    Gpu,
    Parameters,
    Passes,
    TimePlan,
    gigabytes,
    memory_rows,
    other_phases,
    time_plan,
)

if typing.TYPE_CHECKING:
    from soarbench.planning.fake_transformer import MetaModel

log = logging.getLogger(__name__)
#: Named at most when something does not fit.
_MOST_REMEDIES = 3
_JUDGES_ON_CPU = "judges on the CPU (judge.NAME.device=cpu)"
#: What takes less of a phase's memory, by ``other_phases``.
_OF_PHASES = {
    "encoding": f"a smaller model.resolution, {_JUDGES_ON_CPU}",
    "drawing": f"a smaller sampling.batch_size, {_JUDGES_ON_CPU}",
    "judging": f"{_JUDGES_ON_CPU}, fewer of them (suites.NAME.judges)",
}


@dataclass(frozen=True, kw_only=True)
class MethodPlan:
    """What one method needs: bytes on each GPU by what they are, and numbers of weights."""

    memory: Mapping[str, float]
    phases: Mapping[str, float]
    time: TimePlan
    total: int
    trained: int

    @property
    def peak_gb(self) -> float:
        """The most that any phase takes, GB."""
        return max(gigabytes(self.memory), max(self.phases.values(), default=0.0) / GB)


class Planner:
    """Plans demands; counts like demands once."""

    def __init__(self) -> None:
        self._passes: dict[str, Passes] = {}
        self._forwards: dict[str, tuple[float, float]] = {}
        self._rollouts: dict[str, float] = {}
        self._sizes: dict[str, Parameters] = {}

    def plan(self, demand: Demand, gpu: Gpu, utilisation: float) -> MethodPlan:
        """What a demand needs on a kind of GPU, of whose peak training reaches a share."""
        sizes = self._parameters(demand)
        return MethodPlan(
            memory=self.memory(demand),
            phases=self.phases(demand),
            time=self.time(demand, gpu, utilisation),
            total=sizes.total,
            trained=sizes.trained,
        )

    def time(self, demand: Demand, gpu: Gpu, utilisation: float) -> TimePlan:
        """What an update takes on such GPUs."""
        flops, _ = self._forward(demand)
        return time_plan(demand, gpu, forward_flops=flops, utilisation=utilisation)

    def phases(self, demand: Demand) -> dict[str, float]:
        """Bytes on the first GPU at the peak of what is not training."""
        _, row = self._forward(demand)
        sizes = self._parameters(demand)
        return other_phases(demand, demand.model.architecture(), sizes, row)

    def _forward(self, demand: Demand) -> tuple[float, float]:
        """Operations and bytes of one row's forward."""
        key = repr((demand.lora, demand.model))
        if key not in self._forwards:
            self._forwards[key] = self._meta(demand).forward()
        return self._forwards[key]

    def _parameters(self, demand: Demand) -> Parameters:
        key = repr((demand.lora, demand.model))
        if key not in self._sizes:
            self._sizes[key] = self._meta(demand).parameters()
        return self._sizes[key]

    def _meta(self, demand: Demand) -> MetaModel:
        from soarbench.planning.fake_transformer import MetaModel

        architecture, in_shards = demand.model.architecture(), demand.parallelism != "ddp"
        return MetaModel(architecture, demand.model, demand.training, demand.lora, in_shards)

    def memory(self, demand: Demand) -> dict[str, float]:
        """Bytes on each GPU, by what they are."""
        meta, training = self._meta(demand), demand.training
        precision, is_whole = training.mixed_precision, demand.parallelism == "ddp"
        mode = (training.gradient_checkpointing, precision, demand.model_rows)
        key = repr((demand.lora, mode, demand.model, is_whole))
        if key not in self._passes:
            self._passes[key] = meta.passes(demand.model_rows)
        architecture = demand.model.architecture()
        collected = 0.0
        if demand.method.needs_reward and demand.is_judged:
            collected = max(
                architecture.vae_bytes(demand.model.resolution), demand.rewarding_gb * GB
            )
        # As many rows with gradients hold more.
        if demand.rollout_rows > demand.model_rows:
            rollout = repr((demand.lora, precision, demand.rollout_rows, demand.model, is_whole))
            if rollout not in self._rollouts:
                self._rollouts[rollout] = meta.rollout(demand.rollout_rows)
            collected = max(collected, self._rollouts[rollout])
        sizes, passes = self._parameters(demand), self._passes[key]
        return memory_rows(demand, architecture, sizes, passes, collected=collected)

    def chosen(self, demand: Demand, memory_gb: float) -> Demand:
        """With what is left to memory set: the fastest that fits on such a GPU, or the smallest."""
        # Checkpointing takes a quarter more operations, one point at a time a few percent.
        if demand.training.gradient_checkpointing is None:
            plain, checkpointed = (_checkpointing(demand, value) for value in (False, True))
            fits = self._gb(smallest(plain)) <= memory_gb
            demand = plain if fits else checkpointed
        return self._with_method(demand, demand.method.by_memory(), memory_gb)

    def _with_method(
        self, demand: Demand, forms: Sequence[MethodConfig], memory_gb: float
    ) -> Demand:
        """With the largest form that fits; the ends are counted, what lies between not."""
        if len(forms) == 1:
            return replace(demand, method=forms[0])
        low, high = (self._gb(replace(demand, method=forms[end])) for end in (0, -1))
        # Memory grows evenly, or faster with more: between the ends it is below the line.
        share = (memory_gb - low) / (high - low) if high > low else 1.0
        place = math.floor(min(max(share, 0.0), 1.0) * (len(forms) - 1))
        return replace(demand, method=forms[place])

    def _gb(self, demand: Demand) -> float:
        return gigabytes(self.memory(demand))

    def remedies(self, demand: Demand, memory_gb: float) -> list[str]:
        """The first few settings that would make a demand fit, with the memory each needs."""
        # One by one, since each is counted: seconds for a model of full size.
        peaks = ((words, gigabytes(self.memory(new))) for words, new in alternatives(demand))
        fitting = (f"{words} ({peak:.0f} GB)" for words, peak in peaks if peak <= memory_gb)
        return list(itertools.islice(fitting, _MOST_REMEDIES))


def _checkpointing(demand: Demand, value: bool) -> Demand:
    return replace(demand, training=replace(demand.training, gradient_checkpointing=value))


def smallest(demand: Demand) -> Demand:
    """With the method's form that takes least memory."""
    return replace(demand, method=demand.method.by_memory()[0])


def alternatives(demand: Demand) -> Iterator[tuple[str, Demand]]:
    """Changes that save memory, as they are typed; those that leave the result alone first."""
    training = demand.training
    checkpointing = "training.gradient_checkpointing=true"

    def changed(**values: typing.Any) -> Demand:  # noqa: ANN401 (fields of ``training``)
        return replace(demand, training=replace(training, **values))

    method = demand.method
    if isinstance(method, GroupConfig) and method.rollout_batch_size is not None:
        plain = replace(method, rollout_batch_size=None)
        yield "method.rollout_batch_size=null", replace(demand, method=plain)
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


def settled(cell: CellConfig, processes: ProcessesConfig, memory: float) -> CellConfig:
    """A trained cell with what it leaves to the memory of its GPUs, bytes, chosen."""
    demand = demand_of(cell, processes)
    if not open_choices(demand):
        return cell
    try:
        demand = Planner().chosen(demand, memory / GB)
    # What cannot be counted is trained as it takes least.
    except UnknownArchitecture:
        demand = smallest(_checkpointing(demand, True))
    return replace(cell, training=demand.training, method=demand.method)


def open_choices(demand: Demand) -> list[str]:
    """Keys of the settings that are left to memory."""
    keys = ["training.gradient_checkpointing"]
    keys += [f"method.{field.name}" for field in fields(demand.method)]
    least = replace(smallest(demand), training=_checkpointing(demand, True).training)
    values = ((key, attrgetter(key)) for key in keys)
    return [key for key, value in values if value(demand) is None and value(least) is not None]


def choices(before: Demand, after: Demand | CellConfig) -> dict[str, object]:
    """What memory chose of what was left to it, by key."""
    return {key: attrgetter(key)(after) for key in open_choices(before)}


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


def require_phases(
    method: str, phases: Mapping[str, float], *, name: str, memory_gb: float
) -> None:
    """``UserError`` where drawing, judging or encoding does not fit on a GPU; bytes by phase."""
    for phase, size in phases.items():
        if size > memory_gb * GB:
            raise UserError(
                f"method={method}: {phase} needs {size / GB:.0f} GB on one GPU and {name} has "
                f"{memory_gb:.0f}: what takes less: {_OF_PHASES[phase]}, a larger GPU"
            )


def require_fit(
    cells: Sequence[CellConfig], processes: ProcessesConfig, *, name: str, memory: float
) -> None:
    """Say what training needs of GPUs of ``memory`` bytes.

    ``UserError`` where training, encoding, drawing or judging cannot fit.
    """
    planner = Planner()
    demands: dict[str, tuple[str, Demand]] = {}
    for cell in cells:
        if cell.training is not None:
            demand = demand_of(cell, processes)
            # Cells of other seeds need the same, and counting takes seconds.
            demands.setdefault(repr(demand), (cell.method_name, demand))
    for method, demand in demands.values():
        try:
            before, demand = demand, planner.chosen(demand, memory / GB)
            needed, phases = gigabytes(planner.memory(demand)), planner.phases(demand)
        # Whoever brings another model may know that it fits, where a download is needed to tell.
        except UnknownArchitecture as error:
            log.info("whether training fits is not checked: %s", error)
            return
        for key, value in choices(before, demand).items():
            log.info("%s trains with %s=%s, chosen by memory", method, key, value)
        log.info("%s needs %.0f GB of the %.0f of %s", method, needed, memory / GB, name)
        if needed > memory / GB:
            refuse(planner, method, demand, name=name, memory_gb=memory / GB)
        # Found out now, not when the training of days is over.
        require_phases(method, phases, name=name, memory_gb=memory / GB)
