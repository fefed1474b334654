"""A job makes one artefact, can be interrupted anywhere, and never runs again once it is whole."""

from __future__ import annotations

import abc
import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from typing_extensions import override

from evaluators.base import Evaluator
from evaluators.diversity.config import Measure
from evaluators.images import ImageError, is_readable
from soarbench.common.code import digests
from soarbench.common.errors import Damaged
from soarbench.common.progress import Key, Progress, Stage
from soarbench.config.run import RatesConfig
from soarbench.config.settings import SuiteConfig
from soarbench.diagnostics.measured import Measured, States
from soarbench.evaluation.drawing import Draw
from soarbench.evaluation.selection import sample_files
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.store.artefact import Artefact, Extent, Store

if TYPE_CHECKING:
    from soarbench.tracking.tracker import Tracker

T = TypeVar("T")
OnStep = Callable[[int, str], None]
"""Told the optimiser step that was done, and a note for the progress bar."""


class Workbench(Protocol):
    """The heavy half: loaded models, rows and judges of a process (``jobs.workbench``)."""

    # A protocol, so that listing jobs imports none of it: that takes 7 s, a whole dry run 1.3 s.

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Load and try everything that jobs depend on, so that faults show before they start."""

    def train(self, cell: CellConfig, on_step: OnStep) -> Mapping[str, float]:
        """Train to the end, from the last checkpoint on, and leave snapshots; what it cost."""

    def drawer(self, cell: CellConfig, step: int) -> Draw:
        """What draws images with the weights of a step."""

    def evaluator(self, cell: CellConfig, judge: str) -> Evaluator:
        """A cell's judge by its name."""

    def diversity(self, cell: CellConfig, measure: str) -> Measure:
        """A cell's measure of diversity by its name."""

    def scheduler_facts(self, cell: CellConfig) -> Mapping[str, object]:
        """The sampler's class and shift, for the fingerprint."""

    def base_states(self, cell: CellConfig, source: CellConfig) -> States:
        """Where sampling without training leads from the path of images of ``probe``."""

    def probe(
        self, cell: CellConfig, source: CellConfig, step: int, *, states: States | None
    ) -> Measured:
        """Measure a step's weights along images of the data of ``source``, held-out ones if any.

        ``states`` are what ``base_states`` gave of these images; without, norms alone.
        """


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a job works with in the process that runs it.

    Attributes:
        workbench: Loads what is needed, when it is first needed.
        tracker: MLflow, or nothing; None in a worker, which logs nothing.
    """

    store: Store
    workbench: Workbench
    tracker: Tracker | None
    progress: Progress


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a job asks of the machine that runs it; where no node has a GPU, cores do.

    Attributes:
        gpus: Whole ones, all at once.
        gpu_gb: Memory of a part of one GPU; 0 asks for whole ones, or for none.
        loads: What it loads, from the base to the particular: a worker whose last job began alike
            has that part loaded already.
    """

    gpus: int = 0
    gpu_gb: float = 0.0
    loads: tuple[object, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Job(abc.ABC):
    """One unit of work, as a record that another process could be sent.

    Attributes:
        cell: Whose artefact it is; cells that share it name it by the same address.
    """

    kind: ClassVar[str]
    #: Whether the process that runs the grid does it itself, one after the other.
    runs_here: ClassVar[bool] = False
    cell: CellConfig

    @property
    @abc.abstractmethod
    def source(self) -> addresses.Source:
        """The artefact that is made, and from what."""

    # Once a job: 3 ms of digests, which a scheduler of thousands of jobs asks for again and again.
    @functools.cached_property
    def address(self) -> str:
        """Of the artefact."""
        return self.source.address

    @property
    def key(self) -> Key:
        """Names the job in progress and in failures."""
        return self.address, self.kind

    @property
    def waits_for(self) -> tuple[str, ...]:
        """Addresses that must be whole before this can start."""
        return self.source.inputs

    @property
    def step_needed(self) -> int | None:
        """Of the training that it waits for; None needs its end."""
        return None

    def needs(self) -> Needs:
        """What it asks of a machine; a core, if not said."""
        return Needs()

    @abc.abstractmethod
    def is_done(self, store: Store) -> bool:
        """Whether nothing is left to do."""

    def seconds(self, store: Store, rates: RatesConfig) -> float:
        """Estimated seconds of what is left."""
        return 0.0 if self.is_done(store) else self._seconds_left(store, rates)

    @abc.abstractmethod
    def _seconds_left(self, store: Store, rates: RatesConfig) -> float:
        """Of a job that is not done."""

    @abc.abstractmethod
    def run(self, context: Context) -> None:
        """Bring the artefact from wherever it is to its end."""

    def state(self, store: Store) -> str:
        """``done``, ``failed``, ``begun`` or ``to do``."""
        artefact = store.artefact(self.address)
        if self.is_done(store):
            return "done"
        if artefact.error_path.is_file():
            return "failed"
        return "begun" if artefact.exists else "to do"

    @contextlib.contextmanager
    def begun(
        self, context: Context, what: str, total: int, code: Iterable[str]
    ) -> Iterator[tuple[Artefact, Stage]]:
        """Hold the artefact, and show the work on its ``total`` parts.

        ``code`` names the modules that determine the result, beside the settings.
        """
        artefact, title = context.store.artefact(self.address), f"{self.cell.label}: {what}"
        held = self.held(artefact, functools.partial(self._waits, context.progress, title))
        with held, context.progress.stage(self.key, title, total) as stage:
            with contextlib.nullcontext() if self.is_whole else artefact.held():
                artefact.begin(self.source.content, self.source.inputs, digests(code))
            yield artefact, stage
        # Not before: a kill in between would leave a failed artefact without a reason.
        if self.is_whole or self.is_done(context.store):
            artefact.error_path.unlink(missing_ok=True)

    @property
    def is_whole(self) -> bool:
        """Whether it makes the whole artefact, and not a shard."""
        return True

    def held(
        self, artefact: Artefact, waiting: Callable[[], object] = lambda: None
    ) -> AbstractContextManager[None]:
        """Hold the artefact, unless others work on it too: what each writes appears at once.

        ``waiting`` is called every second while another launch holds it.
        """
        return artefact.held(waiting) if self.is_whole else contextlib.nullcontext()

    def _waits(self, progress: Progress, title: str) -> None:
        """Show that another launch works on the artefact, and that this one lives."""
        progress.wait(self.key, f"{title}, which another launch is at")


def extent_of(suite: SuiteConfig) -> Extent:
    """The part of a suite that is evaluated."""
    return Extent(max_prompts=suite.max_prompts, images_per_prompt=suite.images_per_prompt)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Every ``count``-th batch of the work on an artefact, which several workers do together."""

    index: int = 0
    count: int = 1

    def takes(self, number: int) -> bool:
        """Whether a batch is one of these, by its number."""
        return number % self.count == self.index

    def part(self, batches: Sequence[T]) -> list[T]:
        """Its batches."""
        return [batch for number, batch in enumerate(batches) if self.takes(number)]


@dataclass(frozen=True, kw_only=True)
class SuiteJob(Job):
    """Work on the images of a suite.

    Attributes:
        step: Of training; 0 is the base model.
        suite: Whose prompts.
        shard: What of it this job does; the last one to end notes that all is whole.
    """

    step: int
    suite: SuiteConfig
    shard: Shard = Shard()

    @property
    def num_batches(self) -> int:
        """Most shards in which it can be cut; 1 is done by one worker alone."""
        return 1

    @property
    @override
    def is_whole(self) -> bool:
        return self.shard.count == 1

    @property
    @override
    def key(self) -> Key:
        if self.shard.count == 1:
            return super().key
        return self.address, f"{self.kind} {self.shard.index + 1}/{self.shard.count}"

    @override
    def seconds(self, store: Store, rates: RatesConfig) -> float:
        return super().seconds(store, rates) / self.shard.count

    def images(self, store: Store) -> Artefact:
        """The images themselves."""
        return store.artefact(addresses.images(self.cell, self.step, self.suite).address)

    @contextlib.contextmanager
    def reading(self, store: Store) -> Iterator[None]:
        """Inside the block, images that cannot be read are removed, and ``Damaged`` names them."""
        try:
            yield
        except ImageError as error:
            count = self.remove_unreadable(store)
            # Whatever else went wrong is no reason to draw again.
            if not count:
                raise
            address = self.images(store).address
            raise Damaged(f"{error} ({count} to be drawn again)", address) from error

    def remove_unreadable(self, store: Store) -> int:
        """Remove images that cannot be read. -> How many there are not."""
        paths = [file.path for file in sample_files(self.suite, self.images(store).root)]
        damaged = [path for path in paths if not is_readable(path)]
        for path in damaged:
            path.unlink(missing_ok=True)
        return len(damaged)
