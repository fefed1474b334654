"""``python -m soarbench bench grid``: how busy a cluster is that runs a grid, without one."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from soarbench.benchmarks.simulated import Interval, Loading, SimulatedCluster
from soarbench.benchmarks.tables import number_table
from soarbench.common.errors import UserError
from soarbench.common.progress import Key, Update
from soarbench.config.keys import split
from soarbench.config.run import ProcessesConfig
from soarbench.grid.cell import CellConfig
from soarbench.grid.expand import Grid, expand
from soarbench.jobs.base import Job
from soarbench.jobs.graph import grid_jobs, sharded
from soarbench.jobs.train import Train
from soarbench.launchers.backend import Node
from soarbench.launchers.engine import Engine, Patience
from soarbench.launchers.gangs import Counts, Training, choose, possible_counts
from soarbench.launchers.tasks import tasks_of
from soarbench.planning.demand import PlanOptions, demand_of, gpus
from soarbench.planning.planner import Planner, smallest
from soarbench.store.artefact import Store

#: Of the grid that the issue's numbers are of.
DEFAULTS = ("grid=reward_specific", "model=sd35_medium", "launcher.num_processes=null")

#: Every one is pretended.
_MOST_GPUS = 100_000


@dataclass(frozen=True, kw_only=True)
class GridBenchOptions(PlanOptions):
    """What ``bench grid`` takes beside the settings of a run.

    Attributes:
        gpus: Of the clusters that are pretended.
        gpus_per_node: Of each of their nodes.
        load_seconds: Starting a process and loading weights, or a judge.
        exchange_seconds: Putting a snapshot's weights onto a loaded model.
    """

    gpus: tuple[int, ...] = (8, 64)
    gpus_per_node: int = 8
    load_seconds: float = 60.0
    exchange_seconds: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for count in (*self.gpus, self.gpus_per_node):
            if not 0 < count <= _MOST_GPUS:
                raise ValueError(f"gpus={list(self.gpus)}, gpus_per_node={self.gpus_per_node}: "
                                 f"must be in 1..{_MOST_GPUS}")  # fmt: skip
        for key in ("load_seconds", "exchange_seconds"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ValueError(f"{key}={getattr(self, key)}: must be finite and not negative")


@dataclass(frozen=True, kw_only=True)
class Work:
    """Jobs of a grid that nobody has begun, and their seconds; of a training on one GPU."""

    jobs: Sequence[Job]
    seconds: Mapping[Key, float]
    shard_seconds: float

    @property
    def trainings(self) -> list[Train]:
        """Those among them."""
        return [job for job in self.jobs if isinstance(job, Train)]

    def counts(self, num_gpus: int, fixed: int | None) -> Counts:
        """Processes of every training: a fixed number, or what the launcher would choose."""
        if fixed is not None:
            return {job.address: fixed for job in self.trainings}
        return choose(
            {
                job.address: Training(
                    seconds=self.seconds[job.key], counts=possible_counts(job.cell, num_gpus)
                )
                for job in self.trainings
            },
            num_gpus,
        )

    def over(self, counts: Counts) -> tuple[list[Job], dict[Key, float]]:
        """Jobs as an engine gets them: trainings on so many GPUs, suites in shards."""
        seconds = {**self.seconds}
        for job in self.trainings:
            seconds[job.key] /= counts[job.address]
        jobs = [
            replace(job, num_processes=counts[job.address]) if isinstance(job, Train) else job
            for job in self.jobs
        ]
        shards = sharded(jobs, seconds, self.shard_seconds)
        own = {job.key: seconds[key] / len(parts) for key, parts in shards.items() for job in parts}
        return list(itertools.chain(*shards.values())), own


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """What a pretended cluster did."""

    intervals: Sequence[Interval]
    num_gpus: int
    counts: Counts

    @property
    def makespan(self) -> float:
        """Seconds to the last end."""
        return max(one.end for one in self.intervals)

    @property
    def trained(self) -> float:
        """Seconds until the last training has ended."""
        ends = [one.end for one in self.intervals if one.job.kind == "train"]
        return max(ends, default=self.makespan)

    def busy(self, until: float) -> float:
        """Share of all GPU time up to a moment in which GPUs had jobs; of parts a part."""
        return sum(one.gpu_seconds(until) for one in self.intervals) / (self.num_gpus * until)

    @property
    def loading(self) -> float:
        """Share of jobs' GPU time in which they loaded."""
        total = sum(one.gpu_seconds() for one in self.intervals)
        return sum(one.loading * one.gpus for one in self.intervals) / total

    @property
    def gpu_seconds(self) -> float:
        """Of all jobs, without loading."""
        return sum((one.end - one.start - one.loading) * one.gpus for one in self.intervals)


class _Unwatched:
    """Nobody looks."""

    facts = ""

    def follow(self, update: Update) -> None:
        pass

    def end(self, key: Key) -> None:
        pass

    def forget(self, key: Key) -> None:
        pass

    def tick(self) -> None:
        pass


def bench_grid(options: GridBenchOptions, words: Sequence[str], *, console: Console) -> int:
    """Print makespans of a grid on clusters that are pretended."""
    grid = expand(_with_defaults(words))
    with console.status("counting operations"):
        work = planned(grid, options)
    if not work.trainings:
        raise UserError(f"grid={grid.settings.grid.name} trains nothing: choose methods")
    results = [simulate(work, count, options, grid) for count in options.gpus]
    console.print(_table(grid, work, results, options))
    return 0


def _with_defaults(words: Sequence[str]) -> list[str]:
    keys = {split(word).key for word in words}
    return [*(word for word in DEFAULTS if split(word).key not in keys), *words]


def planned(grid: Grid, options: GridBenchOptions) -> Work:
    """The grid's jobs on workers: trainings as ``plan`` counts them, the rest by ``rates``."""
    rates, planner = grid.settings.budget.rates, Planner()
    step_seconds: dict[str, float] = {}

    def training_seconds(cell: CellConfig) -> float:
        assert cell.training is not None
        demand = demand_of(cell, ProcessesConfig())
        # Cells of other seeds and tasks are counted once.
        key = repr(replace(demand, judges_gb=0, rewards_gb=0, judging_gb=0, rewarding_gb=0))
        if key not in step_seconds:
            gpu = gpus()[options.gpu]
            # Which of a method's forms of equal results it takes changes no operations.
            demand = planner.chosen(smallest(demand), gpu.memory_gb)
            step_seconds[key] = planner.time(demand, gpu, options.utilisation).seconds
        return cell.training.steps * step_seconds[key]

    # Logs are written beside the work, by the grid's own process.
    jobs = [
        job
        for job in grid_jobs(grid.cells, diagnostics=grid.settings.diagnostics)
        if not job.runs_here
    ]
    with tempfile.TemporaryDirectory() as folder:
        nothing = Store(Path(folder))
        seconds = {
            job.key: training_seconds(job.cell)
            if isinstance(job, Train)
            else job.seconds(nothing, rates)
            for job in jobs
        }
    shard_seconds = 60 * grid.settings.launcher.shard_minutes
    return Work(jobs=jobs, seconds=seconds, shard_seconds=shard_seconds)


def simulate(work: Work, num_gpus: int, options: GridBenchOptions, grid: Grid) -> Simulation:
    """Run jobs on a pretended cluster, by the engine that runs real ones."""
    counts = work.counts(num_gpus, grid.settings.launcher.num_processes)
    jobs, seconds = work.over(counts)
    cluster = SimulatedCluster(
        nodes_of(num_gpus, options.gpus_per_node, gpus()[options.gpu].memory_gb),
        lambda job: seconds[job.key],
        loading=Loading(all_seconds=options.load_seconds, part_seconds=options.exchange_seconds),
        marks=_snapshots,
    )
    # A pretended training says something at its snapshots alone, days apart.
    engine = Engine(cluster, _Unwatched(), Patience(stall_minutes=math.inf))
    for job, failure in engine.run(jobs, seconds, _refuse):
        if failure is not None:
            raise UserError(f"{job.cell.label}: {failure}")
    return Simulation(intervals=cluster.intervals, num_gpus=num_gpus, counts=counts)


def _snapshots(job: Job) -> Sequence[int]:
    return job.cell.steps if job.kind == "train" else ()


def _refuse(job: Job) -> None:
    raise AssertionError(f"{job.kind} is no job of a worker")


def nodes_of(num_gpus: int, gpus_per_node: int, memory_gb: float) -> list[Node]:
    """Nodes with so many GPUs in all."""
    sizes = [min(gpus_per_node, num_gpus - i) for i in range(0, num_gpus, gpus_per_node)]
    return [
        Node(name=f"node{i}", gpus=size, slots=size, gpu_memory_gb=memory_gb)
        for i, size in enumerate(sizes)
    ]


def sequential_seconds(work: Work, processes: int) -> float:
    """One job after the other, trainings on several GPUs of a node and all else on one."""
    counts = {job.address: max(possible_counts(job.cell, processes)) for job in work.trainings}
    return sum(work.over(counts)[1].values())


def longest_path(work: Work, num_gpus: int) -> float:
    """Seconds that no number of workers beats, were every training given all it can use."""
    counts = {job.address: max(possible_counts(job.cell, num_gpus)) for job in work.trainings}
    jobs, seconds = work.over(counts)
    return max(task.path for task in tasks_of(jobs, seconds))


def _table(
    grid: Grid, work: Work, results: Sequence[Simulation], options: GridBenchOptions
) -> Table:
    def row(title: str, value: Callable[[Simulation], str]) -> tuple[str, ...]:
        return title, *map(value, results)

    def bound(result: Simulation) -> float:
        return max(result.gpu_seconds / result.num_gpus, longest_path(work, result.num_gpus))

    def processes(method: str) -> Callable[[Simulation], str]:
        own = {job.address for job in work.trainings if job.cell.method_name == method}
        return lambda result: _span(result.counts[address] for address in own)

    methods = dict.fromkeys(job.cell.method_name for job in work.trainings)
    rows = [
        row("jobs, suites in shards", lambda r: f"{len(r.intervals):,}"),
        *(row(f"processes that train {method}", processes(method)) for method in methods),
        row("GPUs busy until the last training ends", lambda r: f"{r.busy(r.trained):.1%}"),
        row("GPUs busy until the end", lambda r: f"{r.busy(r.makespan):.1%}"),
        row("of it loading", lambda r: f"{r.loading:.2%}"),
        row("makespan", lambda r: _hours(r.makespan)),
        row("no schedule is shorter than", lambda r: _hours(bound(r))),
        row(
            "one job after the other, trainings on a node's GPUs",
            lambda r: _hours(sequential_seconds(work, min(options.gpus_per_node, r.num_gpus))),
        ),
        row(
            "one job after the other, trainings on one GPU",
            lambda _: _hours(sequential_seconds(work, 1)),
        ),
    ]
    name = f"{grid.settings.grid.name}, {grid.settings.model.name}, {grid.settings.budget.name}"
    title = f"{name} on pretended {options.gpu}, {options.gpus_per_node} a node"
    table = number_table(title, ("", *(f"{result.num_gpus} GPUs" for result in results)), rows)
    table.caption = (
        "Nothing was measured on a GPU: trainings as plan counts them at "
        f"{options.utilisation:.0%} of the peak, without communication; images and scores by the "
        f"budget's rates ({grid.settings.budget.rates.machine}); {options.load_seconds:g} s to "
        f"load, {options.exchange_seconds:g} s to exchange a snapshot. One job after the other: "
        "all but trainings on one GPU, loading not counted."
    )
    return table


def _span(counts: Iterable[int]) -> str:
    return " to ".join(str(count) for count in sorted({*counts}))


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h"
