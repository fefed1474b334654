"""The engine on a cluster whose time passes at once."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import ClassVar, cast

import pytest

from soarbench.benchmarks.simulated import Interval, Loading, SimulatedCluster
from soarbench.common.progress import Key, Update
from soarbench.config.run import RatesConfig
from soarbench.grid.addresses import Source
from soarbench.grid.cell import CellConfig
from soarbench.jobs.base import Context, Job, Needs
from soarbench.launchers.backend import Event, Node
from soarbench.launchers.engine import Blocked, Engine, Outcome, Patience, WorkerLost
from soarbench.store.artefact import Store

WHOLE = Needs(gpus=1)
CELL = cast("CellConfig", SimpleNamespace(label="cell"))


@dataclass(frozen=True, kw_only=True)
class Sleep(Job):
    """Takes so many seconds."""

    kind: ClassVar[str] = "sleep"
    cell: CellConfig = field(default_factory=lambda: CELL)
    name: str
    length: float = 10.0
    inputs: tuple[str, ...] = ()
    asks: Needs = WHOLE
    step: int | None = None
    suite: object = None

    @property
    def source(self) -> Source:
        return Source(address=self.name, content={}, inputs=self.inputs)

    @property
    def step_needed(self) -> int | None:
        return self.step

    def needs(self) -> Needs:
        return self.asks

    def is_done(self, store: Store) -> bool:
        raise NotImplementedError

    def _seconds_left(self, store: Store, rates: RatesConfig) -> float:
        raise NotImplementedError

    def run(self, context: Context) -> None:
        raise NotImplementedError


class Training(Sleep):
    kind: ClassVar[str] = "train"


class Desk(Sleep):
    kind: ClassVar[str] = "log"
    runs_here: ClassVar[bool] = True


class Watched:
    """Remembers what it was told."""

    facts = ""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.forgotten: list[Key] = []

    def follow(self, update: Update) -> None:
        self.updates.append(update)

    def end(self, key: Key) -> None:
        pass

    def tick(self) -> None:
        pass

    def forget(self, key: Key) -> None:
        self.forgotten.append(key)


class Cluster(SimulatedCluster):
    """Some jobs fail, some never end; nothing is given to two workers at a time."""

    def __init__(
        self,
        *nodes: Node,
        loading: Loading | None = None,
        lengths: Mapping[str, float] | None = None,
        failing: Sequence[str] = (),
    ) -> None:
        self.failing, self.starts, self.stops = failing, 0, 0

        def seconds(job: Job) -> float:
            assert isinstance(job, Sleep)
            return (lengths or {}).get(job.name, job.length)

        super().__init__(nodes, seconds, loading=loading, marks=lambda job: marks_of(job))

    def failure(self, job: Job) -> Exception | None:
        return ValueError("broken") if job.address in self.failing else None

    def start(self, place):
        self.starts += 1
        worker = super().start(place)
        self.check()
        return worker

    def stop(self, worker):
        self.stops += 1
        super().stop(worker)

    def check(self) -> None:
        """No GPU and no core has more than one whole owner."""
        nodes = {node.name: node for node in self.nodes_now}
        parts: dict[tuple[str, int], int] = {}
        slots: dict[str, int] = {}
        for worker in self._workers.values():
            for share in worker.place:
                slots[share.node] = slots.get(share.node, 0) + share.slots
                for gpu in share.gpus:
                    key = share.node, gpu
                    parts[key] = parts.get(key, 0) + share.parts
        assert all(n <= 8 for n in parts.values())
        assert all(n <= nodes[name].slots for name, n in slots.items() if name in nodes)

    def interval(self, name: str) -> Interval:
        """The one time that a job came to its end."""
        (found,) = (one for one in self.intervals if one.job.address == name)
        return found

    def worker_of(self, name: str) -> int:
        """Whoever does a job now; its agenda says so."""
        return max(worker for worker, at in self.doing.items() if at == name)

    def submit(self, worker, job):
        self.doing[worker] = job.address
        super().submit(worker, job)

    @property
    def doing(self) -> dict[int, str]:
        return self.__dict__.setdefault("_doing", {})


def marks_of(job: Job) -> Sequence[int]:
    return range(1, 11) if job.kind == "train" else ()


def gpus(count: int, name: str = "a", memory: float = 80.0) -> Node:
    return Node(name=name, gpus=count, slots=8, gpu_memory_gb=memory)


def run(
    cluster: Cluster,
    *jobs: Sleep,
    patience: Patience | None = None,
    here: Callable[[Job], None] | None = None,
    estimates: Mapping[str, float] | None = None,
) -> dict[str, Exception | None]:
    """Run jobs to their end; what each failed with, in the order of their ends."""
    seconds = {job.key: (estimates or {}).get(job.name, job.length) for job in jobs}
    engine = Engine(cluster, Watched(), patience or Patience())
    outcomes: list[Outcome] = list(engine.run(jobs, seconds, here or (lambda _: None)))
    assert len(outcomes) == len(jobs)
    return {job.address: error for job, error in outcomes}


def test_the_longest_path_goes_first() -> None:
    cluster = Cluster(gpus(1))
    short = Sleep(name="short", length=5)
    head = Sleep(name="head", length=1)
    tail = Sleep(name="tail", length=20, inputs=("head",))
    assert list(run(cluster, short, head, tail)) == ["head", "tail", "short"]
    assert cluster.now() == 26


def test_images_are_drawn_as_soon_as_a_snapshot_is_there() -> None:
    cluster = Cluster(gpus(2))
    early = Sleep(name="early", inputs=("training",), step=5)
    late = Sleep(name="late", inputs=("training",), step=10)
    judged = Sleep(name="judged", inputs=("early",))
    whole = Sleep(name="probe", inputs=("training",))
    assert set(run(cluster, Training(name="training", length=100), early, late, judged, whole))
    assert cluster.interval("early").start == 50
    assert cluster.interval("judged").start == 60
    assert cluster.interval("late").start == 100
    assert cluster.interval("probe").start == 100


def test_small_jobs_neither_starve_a_gang_nor_idle_before_it() -> None:
    cluster = Cluster(gpus(4))
    # Rank: what runs first, the gang, what does not end before it begins, what does.
    first = [Sleep(name=f"first{i}", length=150 - 50 * i) for i in range(2)]
    gang = Sleep(name="gang", length=99, asks=Needs(gpus=4))
    tails = [
        Sleep(name=f"after {job.name}", length=1000, inputs=(job.name,), asks=Needs())
        for job in (*first, gang)
    ]
    small = [Sleep(name=f"small{i}", length=40) for i in range(20)]
    long = Sleep(name="long", length=160)
    run(cluster, *first, gang, *tails, long, *small)
    assert cluster.interval("gang").start == 150
    before = [one for one in cluster.intervals if one.end <= 150 and one.job.address[:5] == "small"]
    # Two GPUs are free for 150 seconds and a third one for 50: 3 + 3 + 1 of 40 seconds.
    assert len(before) == 7
    assert cluster.interval("long").start == 249
    assert cluster.interval("gang").end == 249


def test_what_a_gang_will_not_need_is_not_kept_free() -> None:
    cluster = Cluster(gpus(8))
    first = Sleep(name="first", length=100, asks=Needs(gpus=6))
    gang = Sleep(name="gang", length=99, asks=Needs(gpus=6))
    long = [Sleep(name=f"long{i}", length=98) for i in range(3)]
    run(cluster, first, gang, *long)
    assert cluster.interval("gang").start == 100
    assert [cluster.interval(f"long{i}").start for i in range(2)] == [0, 0]


def test_a_gang_spans_nodes_only_where_it_must() -> None:
    cluster = Cluster(gpus(2, "a"), gpus(4, "b"))
    run(cluster, Sleep(name="four", asks=Needs(gpus=4)), Sleep(name="two", asks=Needs(gpus=2)))
    assert [share.node for share in cluster.interval("four").place] == ["b"]
    assert [share.node for share in cluster.interval("two").place] == ["a"]
    cluster = Cluster(gpus(2, "a"), gpus(4, "b"))
    run(cluster, Sleep(name="five", asks=Needs(gpus=5)))
    shares = {share.node: share.gpus for share in cluster.interval("five").place}
    assert shares == {"b": (0, 1, 2, 3), "a": (0,)}


def test_judges_share_a_gpu_and_leave_others_whole() -> None:
    cluster = Cluster(gpus(2))
    judges = [Sleep(name=f"judge{i}", asks=Needs(gpu_gb=25)) for i in range(2)]
    run(cluster, *judges, Sleep(name="draw"))
    assert cluster.now() == 10
    (share,) = cluster.interval("judge0").place
    # 25 of 80 GB are more than two eighths.
    assert share.parts == 3
    places = [cluster.interval(f"judge{i}").place for i in range(2)]
    assert len({place[0].gpus for place in places}) == 1
    assert cluster.interval("draw").place[0].gpus != places[0][0].gpus


def test_workers_are_taken_by_what_they_have_loaded_and_ended_where_they_are_in_the_way() -> None:
    cost = Loading(all_seconds=100, part_seconds=10)
    cluster = Cluster(gpus(2), loading=cost)
    a, b = (("model", name, None, name, 1) for name in "ab")
    jobs = [
        Sleep(name=f"{name}{i}", length=20 - i, asks=Needs(gpus=1, loads=loads))
        for i in range(4)
        for name, loads in (("a", a), ("b", b))
    ]
    run(cluster, *jobs)
    assert cluster.starts == 2
    assert sum(one.loading for one in cluster.intervals) == 200
    # Another snapshot of the same base is put onto it.
    cluster = Cluster(gpus(1), loading=cost)
    steps = [Needs(gpus=1, loads=("model", "base", None, "t", step)) for step in (1, 2)]
    run(cluster, *(Sleep(name=f"{i}", asks=needs) for i, needs in enumerate(steps)))
    assert (cluster.starts, cluster.now()) == (1, 130)
    # An idle judge holds memory of a GPU that something whole needs.
    cluster = Cluster(gpus(1))
    run(cluster, Sleep(name="judge", asks=Needs(gpu_gb=5)), Sleep(name="draw", length=1))
    assert (cluster.starts, cluster.stops) == (2, 1)


def test_a_judge_is_not_loaded_over_another_where_there_is_room() -> None:
    cluster = Cluster(gpus(1), loading=Loading(all_seconds=100))
    names = [f"{judge}{i}" for i in range(3) for judge in "xy"]
    jobs = [
        Sleep(
            name=name,
            asks=Needs(gpu_gb=10, loads=("judge", name[0])),
            inputs=(names[i - 2],) if i > 1 else (),
        )
        for i, name in enumerate(names)
    ]
    run(cluster, *jobs)
    assert cluster.starts == 2
    assert cluster.now() == 130


def test_a_job_whose_worker_dies_is_begun_again() -> None:
    cluster = Cluster(gpus(1))
    cluster.at(4, lambda: cluster.lose(cluster.worker_of("job"), "killed"))
    assert run(cluster, Sleep(name="job"), Sleep(name="next", inputs=("job",))) == {
        "job": None,
        "next": None,
    }
    assert cluster.interval("job").start == 4
    assert cluster.now() == 24


def test_a_job_that_loses_every_worker_fails_and_blocks_only_what_waits_for_it() -> None:
    cluster = Cluster(gpus(2))
    for moment in (1, 2, 3):
        cluster.at(moment, lambda: cluster.lose(cluster.worker_of("job"), "out of memory"))
    outcomes = run(
        cluster,
        Sleep(name="job"),
        Sleep(name="next", inputs=("job",)),
        Sleep(name="last", inputs=("next",)),
        Sleep(name="other"),
        patience=Patience(retries=2),
    )
    assert isinstance(outcomes["job"], WorkerLost)
    assert "lost 3 workers (launcher.retries=2), the last one: out of memory" in str(
        outcomes["job"]
    )
    for name in ("next", "last"):
        assert isinstance(outcomes[name], Blocked)
        assert "job could not be made" in str(outcomes[name])
    assert outcomes["other"] is None


def test_a_failure_blocks_what_waits_but_not_what_has_its_snapshot() -> None:
    cluster = Cluster(gpus(2), failing=["training"])
    outcomes = run(
        cluster,
        Training(name="training", length=100),
        Sleep(name="early", inputs=("training",), step=2),
        Sleep(name="judged", inputs=("early",)),
        Sleep(name="late", inputs=("training",)),
    )
    assert isinstance(outcomes["training"], ValueError)
    assert (outcomes["early"], outcomes["judged"]) == (None, None)
    assert isinstance(outcomes["late"], Blocked)


def test_a_node_that_is_gone_is_not_used_and_one_that_comes_late_is() -> None:
    cluster = Cluster(gpus(1, "a"), gpus(1, "b"))

    def leave() -> Event | None:
        cluster.nodes_now.remove(gpus(1, "b"))
        worker = next(w for w, s in cluster._workers.items() if s.place[0].node == "b")
        return cluster.lose(worker, "its node is gone")

    def come() -> None:
        cluster.nodes_now.append(gpus(4, "c"))

    cluster.at(5, leave)
    cluster.at(15, come)
    jobs = [Sleep(name=f"{i}") for i in range(8)]
    assert set(run(cluster, *jobs).values()) == {None}
    nodes = [one.place[0].node for one in cluster.intervals]
    # One of b's is begun again; the last one of eight ends on c, where four began at once.
    assert sorted(nodes) == ["a"] * 3 + ["c"] * 5
    assert cluster.now() == 35


def test_a_job_without_a_sign_of_life_is_ended() -> None:
    cluster = Cluster(gpus(1), lengths={"hanging": float("inf")})
    patience = Patience(retries=0, stall_minutes=2)
    outcomes = run(cluster, Sleep(name="hanging"), Sleep(name="other"), patience=patience)
    assert "no progress for 2 minutes (launcher.stall_minutes)" in str(outcomes["hanging"])
    assert outcomes["other"] is None
    assert 120 < cluster.now() < 140


def test_what_no_node_can_run_is_given_up() -> None:
    cluster = Cluster(gpus(2))
    outcomes = run(
        cluster,
        Sleep(name="gang", asks=Needs(gpus=3)),
        Sleep(name="next", inputs=("gang",)),
        Sleep(name="other"),
        patience=Patience(start_minutes=1),
    )
    assert "no node could run it for 1 minutes (launcher.start_minutes)" in str(outcomes["gang"])
    assert isinstance(outcomes["next"], Blocked)
    assert outcomes["other"] is None
    assert 70 < cluster.now() < 80


def test_parts_of_a_suite_are_worked_on_one_after_the_other() -> None:
    cluster = Cluster(gpus(2))
    parts = [Sleep(name="images", suite=size) for size in ("small", "all")]
    engine = Engine(cluster, Watched(), Patience())
    # Both have one address, and one key.
    outcomes = list(engine.run(parts, {parts[0].key: 10.0}, lambda _: None))
    assert [cast("Sleep", job).suite for job, _ in outcomes] == ["small", "all"]
    assert [one.start for one in cluster.intervals] == [0, 10]


def test_jobs_of_the_process_itself_run_in_it_one_at_a_time() -> None:
    running, most, names = 0, 0, list[str]()
    lock = threading.Lock()

    def here(job: Job) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        names.append(job.address)
        with lock:
            running -= 1
        if job.address == "bad":
            raise ValueError("no server")

    cluster = Cluster(gpus(1))
    logs = [Desk(name=name, inputs=("draw",)) for name in ("one", "two", "bad")]
    outcomes = run(cluster, Sleep(name="draw"), *logs, here=here)
    assert (most, sorted(names)) == (1, ["bad", "one", "two"])
    assert [str(outcomes[name]) for name in ("one", "bad")] == ["None", "no server"]
    assert [one.job.address for one in cluster.intervals] == ["draw"]


def test_an_interruption_waits_for_no_job_that_has_not_begun() -> None:
    begun = threading.Event()
    names = list[str]()

    def here(job: Job) -> None:
        names.append(job.address)
        begun.set()

    class Interrupted(Watched):
        def tick(self) -> None:
            assert begun.wait(10)
            raise KeyboardInterrupt

    logs = [Desk(name=name) for name in ("one", "two", "three")]
    hold = threading.Lock()
    with hold, pytest.raises(KeyboardInterrupt):
        list(Engine(Cluster(gpus(1)), Interrupted(), Patience()).run(logs, {}, here))
    assert len(names) < 3


def test_jobs_without_a_gpu_have_the_cores_of_any_node() -> None:
    cluster = Cluster(Node(name="a", gpus=1, slots=2))
    jobs = [Sleep(name=f"{i}", asks=Needs()) for i in range(4)]
    run(cluster, Sleep(name="draw"), *jobs)
    assert cluster.now() == 20
    # Without any GPU a training takes as many slots as it has processes.
    cluster = Cluster(Node(name="a", slots=2))
    run(cluster, Sleep(name="two", asks=Needs(gpus=2)), Sleep(name="one"))
    assert cluster.now() == 20


@pytest.mark.parametrize("seed", range(40))
def test_every_job_runs_once_after_its_inputs_within_grahams_bound(seed: int) -> None:
    rng = random.Random(seed)
    nodes = [gpus(rng.choice((1, 2, 4, 8)), name) for name in "abc"[: rng.randint(1, 3)]]
    has_gangs, total = seed % 2 == 1, sum(node.gpus for node in nodes)
    jobs: list[Sleep] = []
    for i in range(rng.randint(1, 120)):
        inputs = tuple({job.name for job in rng.sample(jobs, min(len(jobs), rng.randint(0, 3)))})
        shapes = [WHOLE, WHOLE, Needs(gpu_gb=rng.choice((10, 30))), Needs()]
        shapes += [Needs(gpus=rng.randint(1, total))] * has_gangs
        asks = rng.choice(shapes) if has_gangs else WHOLE
        length = rng.choice((1.0, 5.0, rng.uniform(0.1, 50)))
        jobs.append(Sleep(name=f"{i}", length=length, inputs=inputs, asks=asks))
    cluster = Cluster(*nodes)
    # A third of the estimates is wrong, which decides about nothing but the order.
    estimates = {job.name: rng.choice((job.length, job.length, 1.0)) for job in jobs}
    assert set(run(cluster, *jobs, estimates=estimates).values()) == {None}
    ends = {one.job.address: one.end for one in cluster.intervals}
    assert len(ends) == len(cluster.intervals) == len(jobs)
    for one in cluster.intervals:
        assert all(ends[name] <= one.start for name in one.job.waits_for)
    if not has_gangs:
        path: dict[str, float] = {}
        for job in jobs:
            path[job.name] = job.length + max((path[n] for n in job.inputs), default=0.0)
        bound = max(max(path.values()), sum(job.length for job in jobs) / total)
        assert cluster.now() <= 2 * bound + 1e-9


def test_twenty_thousand_jobs_on_512_gpus_are_handed_out_quickly() -> None:
    rng = random.Random(0)
    draws = [
        Sleep(
            name=f"draw{i}",
            length=rng.uniform(200, 400),
            asks=Needs(gpus=1, loads=("model", "base", None, f"training{i % 50}", i)),
        )
        for i in range(5000)
    ]
    judges = [
        Sleep(
            name=f"judge{i}-{judge}",
            length=rng.uniform(10, 40),
            inputs=(f"draw{i}",),
            asks=Needs(gpu_gb=10, loads=("judge", judge)),
        )
        for i in range(5000)
        for judge in range(3)
    ]
    cluster = Cluster(*(gpus(8, f"node{i}") for i in range(64)))
    cluster.check = lambda: None
    start = time.process_time()
    outcomes = run(cluster, *draws, *judges)
    # 4 s on this machine; looking at every job at every event took minutes.
    assert time.process_time() - start < 60
    assert set(outcomes.values()) == {None}
    work = sum(one.gpu_seconds() for one in cluster.intervals)
    assert cluster.now() <= 1.1 * work / 512
