"""The nodes of a Ray cluster, and workers that are Ray's actors on them."""

from __future__ import annotations

import itertools
import logging
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeAlias

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from typing_extensions import override

from soarbench.common.errors import UserError, reason
from soarbench.common.progress import Update
from soarbench.grid.expand import Grid
from soarbench.jobs.base import Job
from soarbench.jobs.torchrun import Span
from soarbench.launchers.backend import Backend, Ended, Event, Lost, Node, Place, Share, Worker
from soarbench.launchers.base import MakeWorkbench
from soarbench.launchers.ray_actors import Facts, NodeHost, NodePartner, NodeWorker, code_version
from soarbench.launchers.worker import variables

Ref: TypeAlias = "ray.ObjectRef[Any]"
log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 5.0
#: For nodes whose GPUs others hold, when some are there already.
_SECONDS_FOR_ALL_NODES = 60.0
#: Of memory, for a job beside the GPUs.
_SLOT_BYTES = 4e9
#: In what Ray says of an actor that is gone.
_DEATH = "The actor is dead because"
_LONGEST_WHY = 200
#: Jobs share a thread, of which torch's handling of denormal numbers is a property; another one
#: answers meanwhile.
_THREADS = {"jobs": 1, "news": 1}


@dataclass(kw_only=True)
class _Host:
    """A node, and the actor that holds its GPUs; ``facts`` are None until it does."""

    actor: ActorHandle[Any]
    name: str
    address: str
    cpus: int
    slots: int
    facts: Facts | None = None
    is_gone: bool = False

    @property
    def node(self) -> Node:
        assert self.facts is not None
        gpus, memory = len(self.facts.gpus), self.facts.gpu_memory_gb
        return Node(name=self.name, gpus=gpus, slots=self.slots, gpu_memory_gb=memory)


@dataclass(kw_only=True)
class _Running:
    """A worker: its actor, and since when it is being started (None: it is there)."""

    actor: ActorHandle[Any]
    place: Place
    starting_since: float | None
    begun: Ref
    partners: dict[Ref, ActorHandle[Any]] = field(default_factory=dict)


class Actors(Backend):
    """Workers that are actors, each pinned to its node.

    They end with this process, however it ends, as all that Ray does for it. Nodes may come and go.

    Args:
        gpus_per_node: That are used; None: all.
    """

    def __init__(
        self,
        grid: Grid,
        make_workbench: MakeWorkbench,
        *,
        gpus_per_node: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grid, self._gpus_per_node, self._clock = grid, gpus_per_node, clock
        self._config = grid.settings.launcher
        # Once for all workers.
        self._shared = ray.put((grid, make_workbench))
        self._code, self._mark = code_version(), uuid.uuid4().hex
        self._hosts: dict[str, _Host] = {}
        self._looks: dict[Ref, str] = {}
        self._looked = -_SECONDS_BETWEEN_LOOKS
        self._numbers = itertools.count()
        self._workers: dict[Worker, _Running] = {}
        self._refs: dict[Ref, Worker] = {}

    # Nodes

    def __enter__(self) -> Self:
        self._check_gpus()
        # One name: what a killed run left, the next one takes away, whose folder it is alone.
        self._check = self._grid.folder.resolve() / ".nodes"
        shutil.rmtree(self._check, ignore_errors=True)
        self._check.mkdir(parents=True)
        (self._check / "driver").write_text(self._mark)
        try:
            self._wait_for_nodes()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in list(self._workers):
            self.stop(worker)
        for host in self._hosts.values():
            ray.kill(host.actor)
        shutil.rmtree(self._check)

    def _check_gpus(self) -> None:
        """Refuse more GPUs than the cluster has, before any is waited for."""
        counts = [self._gpus(info) for info in _alive()]
        limit, processes = self._gpus_per_node, self._config.count
        most = max((int(info["Resources"].get("GPU", 0)) for info in _alive()), default=0)
        if self._uses_gpus and limit is not None and limit > most:
            raise UserError(
                f"launcher.gpus_per_node={limit}: no node of the Ray cluster has more than {most}"
            )
        # Without any, processes share the cores of a node.
        if sum(counts) and processes > sum(counts):
            raise UserError(
                f"launcher.num_processes={processes}: the Ray cluster has {sum(counts)} GPUs"
                f"{'' if limit is None else f' with launcher.gpus_per_node={limit}'}"
            )

    @property
    def _uses_gpus(self) -> bool:
        return self._grid.settings.device != "cpu"

    def _gpus(self, info: dict[str, Any]) -> int:
        """GPUs of a node that are used."""
        count = int(info["Resources"].get("GPU", 0)) if self._uses_gpus else 0
        return min(count, self._gpus_per_node or count)

    def _wait_for_nodes(self) -> None:
        self._look()
        ray.wait(list(self._looks), num_returns=len(self._looks), timeout=_SECONDS_FOR_ALL_NODES)
        self._hear(is_start=True)
        minutes = self._config.start_minutes
        until = self.now() + 60 * minutes
        # A node that died while it was asked, or is busy, is asked again.
        while not self.nodes() and self.now() < until:
            if self._looks:
                ray.wait(list(self._looks), timeout=_SECONDS_BETWEEN_LOOKS)
            else:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            self._hear(is_start=True)
        if not self.nodes():
            raise UserError(
                f"launcher=ray: no node was free for {minutes:g} minutes (launcher.start_minutes); "
                "'ray status' shows what others hold"
            )

    def summary(self) -> str:
        """What there is to work with."""
        nodes = self.nodes()
        gpus, slots = sum(node.gpus for node in nodes), sum(node.slots for node in nodes)
        what = f"{gpus} GPUs, and room for {slots} jobs beside them" if gpus else f"{slots} workers"
        return f"Ray: {len(nodes)} {'node' if len(nodes) == 1 else 'nodes'} with {what}"

    @override
    def nodes(self) -> Sequence[Node]:
        if self.now() - self._looked >= _SECONDS_BETWEEN_LOOKS:
            self._look()
        return [host.node for host in self._hosts.values() if host.facts and not host.is_gone]

    def _look(self) -> None:
        """See which nodes came and went."""
        self._looked = self.now()
        alive = {info["NodeID"]: info for info in _alive()}
        for name, host in self._hosts.items():
            if name not in alive and not host.is_gone:
                # Still named by workers that are about to be lost.
                host.is_gone = True
                log.warning("node %s is gone", host.address)
        for name, info in alive.items():
            # A head that only manages offers nothing.
            if name not in self._hosts and (info["Resources"].get("CPU", 0) or self._gpus(info)):
                self._hosts[name] = self._host(name, info)
        self._hear(is_start=False)

    def _host(self, name: str, info: dict[str, Any]) -> _Host:
        gpus, cpus = self._gpus(info), int(info["Resources"].get("CPU", 0))
        memory = int(info["Resources"].get("memory", 0) / _SLOT_BYTES)
        actor = _actor(NodeHost, name, num_gpus=gpus, num_cpus=0)
        ref: Ref = actor.look.remote(Path.cwd(), self._check, self._mark, name, self._code)
        self._looks[ref] = name
        slots = max(min(cpus, memory), 1)
        return _Host(
            actor=actor,
            name=name,
            address=info["NodeManagerAddress"],
            cpus=cpus,
            slots=slots,
        )

    def _hear(self, *, is_start: bool) -> None:
        """Take on the nodes that answered; at the start all must be able to do the work."""
        refs = list(self._looks)
        for ref in ray.wait(refs, num_returns=len(refs), timeout=0)[0] if refs else ():
            host = self._hosts[self._looks.pop(ref)]
            try:
                problem = self._problem(host, ref)
            except RayError as error:
                # It is there again, or another one is: whoever died said nothing of its node.
                log.warning("node %s did not answer (%s)", host.address, why(error))
                del self._hosts[host.name]
                continue
            if problem is None:
                continue
            text = f"launcher=ray: node {host.address} {problem}"
            if is_start:
                raise UserError(text)
            log.warning("%s; it is not used", text)

    def _problem(self, host: _Host, ref: Ref) -> str | None:
        """Why a node that answered cannot do the work; ``RayError`` where it went away again."""
        try:
            facts: Facts = ray.get(ref)
        except RayError as error:
            if not _is_refusal(error):
                raise
            return f"cannot run soarbench: {why(error)}"
        if facts.problem is None and not (self._check / host.name).is_file():
            return f"writes to another folder {self._check.parent} than this machine reads"
        host.facts = facts if facts.problem is None else None
        return facts.problem

    # Workers

    @override
    def now(self) -> float:
        return self._clock()

    @override
    def start(self, place: Place) -> Worker:
        share, host = place[0], self._hosts[place[0].node]
        cpus = min(share.slots, host.cpus)
        actor = _actor(
            NodeWorker, share.node, self._variables(share), Path.cwd(), num_gpus=0, num_cpus=cpus
        )
        is_small = bool(share.gpus) and share.gpu_share < 1
        begun: Ref = actor.begin.options(concurrency_group="jobs").remote(
            self._shared, is_small=is_small, argv=sys.argv
        )
        worker = next(self._numbers)
        self._workers[worker] = _Running(
            actor=actor, place=place, begun=begun, starting_since=self.now()
        )
        self._watch(worker, begun)
        self._watch(worker, _news(actor))
        return worker

    def _variables(self, share: Share) -> dict[str, str]:
        """Environment of a process with a share of a node."""
        host = self._hosts[share.node]
        assert host.facts is not None
        gpus = host.facts.gpus
        return variables(share, share.slots or max(host.cpus // max(len(gpus), 1), 1), gpus)

    def _watch(self, worker: Worker, ref: Ref) -> None:
        self._refs[ref] = worker

    @override
    def submit(self, worker: Worker, job: Job) -> None:
        running = self._workers[worker]
        if len(running.place) > 1:
            self._begin_partners(worker, job)
        self._watch(worker, running.actor.run.options(concurrency_group="jobs").remote(job))

    def _begin_partners(self, worker: Worker, job: Job) -> None:
        """Have the other nodes of a worker train with it."""
        running = self._workers[worker]
        first, *others = self._spans(running.place)
        host = self._hosts[running.place[0].node]
        meet: Any = running.actor.meet.options(concurrency_group="jobs")
        master = meet.remote(first, host.address)
        for span, share in zip(others, running.place[1:], strict=True):
            values = self._variables(share)
            partner = _actor(NodePartner, share.node, values, Path.cwd(), num_gpus=0, num_cpus=0)
            ref = partner.join.remote(self._shared, job, span, master)
            running.partners[ref] = partner
            self._watch(worker, ref)

    def _spans(self, place: Place) -> list[Span]:
        hosts = [self._hosts[share.node].node for share in place]
        memory = min(node.gpu_memory_gb for node in hosts)
        return [
            Span(processes=len(share.gpus), nodes=len(place), node=index, gpu_memory_gb=memory)
            for index, share in enumerate(place)
        ]

    @override
    def stop(self, worker: Worker) -> None:
        running = self._workers.pop(worker)
        self._refs = {ref: owner for ref, owner in self._refs.items() if owner != worker}
        self._end_partners(running)
        ray.kill(running.actor)

    @override
    def events(self, seconds: float) -> Iterator[Event]:
        refs = list(self._refs)
        if not refs:
            time.sleep(seconds)
            return
        ray.wait(refs, timeout=seconds)
        for ref in ray.wait(refs, num_returns=len(refs), timeout=0)[0]:
            worker = self._refs.pop(ref, None)
            # One that was ended meanwhile has nothing more to say.
            if worker is not None:
                yield from self._events(worker, ref)
        yield from self._late()

    def _events(self, worker: Worker, ref: Ref) -> Iterator[Event]:
        running = self._workers[worker]
        try:
            messages = ray.get(ref)
        except RayError as error:
            self.stop(worker)
            # Now, or the job would lose all of its workers on a node that is no more.
            self._look()
            yield Lost(worker=worker, why=why(error))
            return
        if ref == running.begun:
            running.starting_since = None
        # What begins and runs a job returns nothing.
        if messages is None:
            return
        self._watch(worker, _news(running.actor))
        for message in messages:
            if isinstance(message, Update):
                yield message
            else:
                self._end_partners(running)
                yield Ended(worker=worker, failure=message)

    def _end_partners(self, running: _Running) -> None:
        # One may still wait for a leader that had nothing to do.
        for ref, partner in running.partners.items():
            self._refs.pop(ref, None)
            ray.kill(partner)
        running.partners.clear()

    def _late(self) -> Iterator[Event]:
        """Give up workers that do not come to life, for example since others hold the cores."""
        minutes = self._config.start_minutes
        for worker, running in list(self._workers.items()):
            since = running.starting_since
            if since is not None and self.now() - since > 60 * minutes:
                self.stop(worker)
                text = f"no worker started within {minutes:g} minutes (launcher.start_minutes)"
                yield Lost(worker=worker, why=text)


def _alive() -> list[dict[str, Any]]:
    return [info for info in ray.nodes() if info["Alive"]]


def _news(actor: ActorHandle[Any]) -> Ref:
    """What a worker will say next."""
    news: Ref = actor.news.options(concurrency_group="news").remote()
    return news


def _actor(kind: type, node: str, *arguments: object, **resources: float) -> ActorHandle[Any]:
    """Begin an actor of a class on a node; one that is lost is not begun again."""
    # To its types actors have no concurrency groups.
    remote: Any = ray.remote
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    make = remote(max_restarts=0, concurrency_groups=_THREADS, **resources)(kind)
    actor: ActorHandle[Any] = make.options(scheduling_strategy=strategy).remote(*arguments)
    return actor


def why(error: RayError) -> str:
    """What ended an actor, in one line."""
    if isinstance(error, RayTaskError):
        return reason(error.cause)
    if isinstance(error, ActorUnavailableError):
        return "its node does not answer"
    lines = [line.strip() for line in str(error).splitlines()]
    # Of a constructor the last line is the error itself.
    causes = lines[-1:] if _is_refusal(error) else [line for line in lines if _DEATH in line]
    return (causes or lines)[0][:_LONGEST_WHY]


def _is_refusal(error: RayError) -> bool:
    """Whether an actor could not even be made, for example since a package is missing."""
    return isinstance(error, RayTaskError) or "raised in its creation task" in str(error)
