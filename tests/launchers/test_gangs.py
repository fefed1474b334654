"""How many processes train each cell."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

import pytest
from rich.console import Console

from soarbench.benchmarks.simulated import SimulatedCluster
from soarbench.common.errors import ConfigError, Damaged
from soarbench.common.progress import GridProgress
from soarbench.grid.expand import Grid, expand
from soarbench.jobs.base import Context, Job
from soarbench.jobs.draw import Draw
from soarbench.jobs.graph import grid_jobs
from soarbench.jobs.probe import ImageStatistics
from soarbench.jobs.train import Train
from soarbench.launchers.backend import Node
from soarbench.launchers.base import Launch
from soarbench.launchers.gangs import Training, choose, makespan, possible_counts
from soarbench.launchers.pool import Pool
from soarbench.launchers.worker import JobRunner
from soarbench.store.training import TrainingFolder

#: Seconds on one GPU, as `plan` counts them for 5,000 updates; processes that divide the batch.
PUBLISHED = {
    f"{name}-{task}": Training(seconds=seconds, counts=counts)
    for task in ("aesthetic", "alignment")
    for name, seconds, counts in (
        ("sft", 2_964, (1, 2, 4, 8)),
        ("soar", 21_734, (1, 2, 4, 8)),
        ("flow_grpo", 1_653_113, (1, 2, 4, 8, 16, 32, 64)),
    )
}


@pytest.mark.parametrize(("gpus", "flow_grpo"), [(1, 1), (8, 4), (16, 8), (64, 32)])
def test_published_trainings_keep_all_gpus_at_work(gpus: int, flow_grpo: int) -> None:
    counts = choose(PUBLISHED, gpus)
    assert {counts[f"flow_grpo-{task}"] for task in ("aesthetic", "alignment")} == {flow_grpo}
    work = sum(training.seconds for training in PUBLISHED.values())
    assert makespan(PUBLISHED, counts, gpus) <= 1.07 * work / gpus


def test_makespan_by_hand() -> None:
    three = {name: Training(seconds=8.0, counts=(1, 2, 4)) for name in "abc"}
    # All at once; two and then one; one after the other.
    assert makespan(three, dict.fromkeys(three, 1), 4) == 8
    assert makespan(three, dict.fromkeys(three, 2), 4) == 8
    assert makespan(three, dict.fromkeys(three, 4), 4) == 6
    # Begun with more than there are now: it has all of them.
    assert makespan({"a": Training(seconds=8.0, counts=(8,))}, {"a": 8}, 2) == 1


def test_a_step_that_shortens_nothing_may_lie_before_one_that_does() -> None:
    three = {name: Training(seconds=8.0, counts=(1, 2, 4)) for name in "abc"}
    assert choose(three, 4) == dict.fromkeys(three, 4)


def test_more_processes_than_are_worth_it_are_not_taken() -> None:
    trainings = {
        "long": Training(seconds=1000.0, counts=(1,)),
        "short": Training(seconds=900.0, counts=(1, 2, 4)),
    }
    assert choose(trainings, 8) == {"long": 1, "short": 1}


def null_grid(overrides: list[str], *more: str) -> Grid:
    return expand([*overrides, "tracking=none", "launcher.num_processes=null", *more])


def test_processes_divide_a_batch(overrides: list[str]) -> None:
    words = ("method=sft", "training.batch_size=24", "training.micro_batch_size=3")
    cell = null_grid(overrides, *words).cells[-1]
    assert possible_counts(cell, 64) == (1, 2, 4, 8)
    assert possible_counts(cell, 6) == (1, 2, 4)
    assert possible_counts(cell, 0) == (1,)


def test_weights_in_shards_need_a_number(overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"parallelism=fsdp2: .* set launcher\.num_processes=N"):
        null_grid(overrides, "launcher.parallelism=fsdp2")


class Pretended:
    """Runs a grid's jobs on a pool of pretended GPUs that takes as long as is said."""

    def __init__(
        self,
        grid: Grid,
        gpus: int,
        jobs: Sequence[Job] | None = None,
        kind: type[SimulatedCluster] = SimulatedCluster,
    ) -> None:
        every = grid_jobs(grid.cells, diagnostics=False) if jobs is None else jobs
        self.jobs = [job for job in every if not job.runs_here]
        self.seconds = {job.key: 1000.0 if job.kind == "train" else 1.0 for job in self.jobs}
        self.cluster = kind([Node(name="a", gpus=gpus)], lambda _: 1.0)
        progress = GridProgress(Console(quiet=True), self.seconds)
        pool = Pool(grid.settings.launcher, lambda _: contextlib.nullcontext(self.cluster))
        launch = Launch(grid=grid, make_workbench=refuse, progress=progress, seconds=self.seconds)
        pool.open(launch, [])
        context = Context(store=grid.store, workbench=refuse, tracker=None, progress=progress)
        assert {error for _, error in pool.run(self.jobs, context)} == {None}

    @property
    def counts(self) -> set[int]:
        """GPUs that trainings had."""
        runs = [one for one in self.cluster.intervals if one.job.kind == "train"]
        return {int(one.gpus) for one in runs}


def refuse(_: object) -> None:
    raise AssertionError("a pretended worker loads nothing")


def trainings(grid: Grid) -> list[TrainingFolder]:
    jobs = [j for j in grid_jobs(grid.cells, diagnostics=False) if isinstance(j, Train)]
    return [TrainingFolder(grid.store.artefact(job.address).root) for job in jobs]


def test_a_pool_gives_trainings_the_number_and_keeps_it(
    overrides: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    grid = null_grid(overrides, "method=sft", "task=aesthetic", "training.batch_size=4")
    assert Pretended(grid, 4).counts == {4}
    (folder,) = trainings(grid)
    assert folder.choices() == {"launcher.num_processes": 4}
    # Nobody began it: another cluster chooses again.
    assert Pretended(grid, 2).counts == {2}
    # Whoever has begun goes on as it began; memory's choices stand beside.
    folder.begin({}, (), {})
    folder.note_choices({"training.gradient_checkpointing": True})
    assert Pretended(grid, 8).counts == {2}
    assert folder.choices()["training.gradient_checkpointing"] is True
    with caplog.at_level(logging.WARNING):
        assert Pretended(grid, 1).counts == {1}
    assert "was begun by 2 processes; there are 1 GPUs" in caplog.text


def test_a_number_is_for_all_trainings(overrides: list[str]) -> None:
    grid = expand([*overrides, "tracking=none", "launcher.num_processes=2"])
    assert Pretended(grid, 8).counts == {2}
    assert not any(folder.choices_path.exists() for folder in trainings(grid))


def test_a_worker_trains_with_the_number_that_was_chosen(overrides: list[str]) -> None:
    grid = null_grid(overrides, "method=sft", "task=aesthetic")
    numbers = []

    def make(given: Grid) -> None:
        numbers.append(given.settings.launcher.num_processes)
        raise OSError("no GPU")

    jobs: list[Job] = [*grid_jobs(grid.cells, diagnostics=False)]
    training = next(job for job in jobs if isinstance(job, Train))
    many = Train(cell=training.cell, num_processes=4)
    for job in (many, next(job for job in jobs if isinstance(job, Draw))):
        JobRunner(grid, make, print).run(job)
    assert numbers == [4, None]


def test_a_worker_without_a_gpu_works_on_the_cpu(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = expand([*overrides, "tracking=none", "device=cuda", "method=sft", "task=aesthetic"])
    jobs: list[Job] = grid_jobs(grid.cells, diagnostics=True)
    devices = []

    def make(given: Grid) -> None:
        devices.append(given.settings.device)
        raise OSError("nothing is loaded")

    statistics = next(job for job in jobs if isinstance(job, ImageStatistics))
    training = next(job for job in jobs if isinstance(job, Train))
    for visible in ("", "1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        for job in (statistics, training):
            JobRunner(grid, make, print).run(job)
    # What asks for a GPU is refused where there is none, and not done by the processor.
    assert devices == ["cpu", "cuda", "cuda", "cuda"]


def test_a_training_that_is_made_again_has_the_processes_that_it_had(overrides: list[str]) -> None:
    grid = expand([*overrides, "tracking=none", "launcher.num_processes=2", "method=sft"])

    class Damaging(SimulatedCluster):
        """The first image finds its weights damaged."""

        is_over = False

        def failure(self, job: Job) -> Exception | None:
            if self.is_over or not isinstance(job, Draw) or job.step == 0:
                return None
            self.is_over = True
            return Damaged("a snapshot is damaged", Train(cell=job.cell).address)

    draws = [job for job in grid_jobs(grid.cells, diagnostics=False) if isinstance(job, Draw)]
    run = Pretended(grid, 4, draws, Damaging)
    assert run.counts == {2}


def test_the_choice_is_in_no_address(overrides: list[str]) -> None:
    one, null = (expand([*overrides, f"launcher.num_processes={word}"]) for word in ("1", "null"))
    addresses = [
        [job.address for job in grid_jobs(grid.cells, diagnostics=True)] for grid in (one, null)
    ]
    assert addresses[0] == addresses[1]
