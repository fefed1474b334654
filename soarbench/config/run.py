"""How a run is carried out: its sizes, its speed, its tracking and its processes."""

from __future__ import annotations

import abc
import math
import re
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import ClassVar, Literal, get_args
from urllib.parse import urlsplit

#: What figures can be written as: PNG for pages, PDF for papers, SVG for everything that scales.
FigureFormat = Literal["png", "pdf", "svg"]
#: What becomes of results that other code than today's made.
Stale = Literal["refuse", "warn", "rerun"]
#: Which snapshots of a training stay when a grid is done with them.
KeepSnapshots = Literal["all", "last"]
FORMATS: tuple[FigureFormat, ...] = get_args(FigureFormat)


def is_folder_name(name: str) -> bool:
    """Whether a folder of that name lies where it is looked for, as ``../`` does not."""
    return re.fullmatch(r"\w[\w.-]*", name) is not None


def require_folder_name(key: str, name: str) -> None:
    """Refuse, by ``ValueError``, a name whose folder would lie anywhere: ``../``."""
    if not is_folder_name(name):
        raise ValueError(f"{key}={name!r}: is the name of folders; use letters, digits, _, - and .")


@dataclass(frozen=True, kw_only=True)
class RatesConfig:
    """Speeds measured on the machine that the budget is meant for; used for estimates alone.

    Attributes:
        machine: Where they were measured.
        model: Whose they are; null where no other is meant.
        start_seconds: Imports, loading and curating once a launch.
        cell_seconds: Fixed cost of a cell: loading weights, logging.
        seconds_per_step: By method, or by METHOD/TASK where a task's updates are others.
        seconds_per_image: Sampling one evaluation image.
        seconds_per_score: By evaluator, one image.
    """

    machine: str
    start_seconds: float
    cell_seconds: float
    seconds_per_step: dict[str, float]
    seconds_per_image: float
    seconds_per_score: dict[str, float]
    model: str | None = None

    def step_seconds(self, method: str, task: str) -> float:
        """Seconds of an update of a method in a task; 0 where nobody measured it."""
        steps = self.seconds_per_step
        return steps.get(f"{method}/{task}", steps.get(method, 0.0))


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """How much is spent on a grid; the other groups take their sizes from here.

    Attributes:
        name: Of the budget.
        description: One line.
        steps: Optimiser updates of every trained cell.
        num_snapshots: Points of each curve after step 0.
        cost_shares: Shares of every method's whole cost, in forward equivalents, at which all
            methods of a task are evaluated besides: 1.0 at what each of them spends in all, [] at
            none of these.
        costs: Further such costs, forward equivalents. Grids that share a training keep what both
            ask for if each names the other's.
        save_steps: Updates between checkpoints, beside those by ``training.save_minutes``; null
            counts none.
        seeds: Training seeds.
        images_per_prompt: Of every suite.
        images: Of suites by name, which have a number of their own.
        max_prompts: Of every suite; null takes all.
        rates: For the estimate of ``--dry-run`` and of the progress bar.
    """

    name: str
    description: str
    steps: int
    num_snapshots: int
    save_steps: int | None
    seeds: tuple[int, ...]
    images_per_prompt: int
    max_prompts: int | None
    rates: RatesConfig
    images: dict[str, int] = field(default_factory=dict)
    cost_shares: tuple[float, ...] = (1.0,)
    costs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        require_folder_name("budget.name", self.name)
        for share in self.cost_shares:
            if not 0 < share <= 1:
                raise ValueError(f"budget.cost_shares: {share} must be above 0 and at most 1")
        for cost in self.costs:
            if not 0 < cost < math.inf:
                raise ValueError(f"budget.costs: {cost} must be above 0 and finite")


#: How addresses of MLflow's own stores begin; its plug-ins add theirs.
_STORES = {
    "", "file", "sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks",
    "databricks-uc", "uc",
}  # fmt: skip


def _is_known(scheme: str) -> bool:
    """Whether MLflow, or a plug-in of it, keeps runs at such addresses; a driver follows a +."""
    plugins = entry_points(group="mlflow.tracking_store")
    return scheme.partition("+")[0] in _STORES or scheme in plugins.names


def _check_address(uri: str) -> None:
    """Refuse a tracking address that can never work, or whose store is lost."""
    try:
        address = urlsplit(uri)
        is_server = address.scheme in ("http", "https")
        fault = "names no host" if is_server and not address.hostname else ""
        # Asked for its ValueError: of a port that is none.
        _ = address.port if is_server else None
        if not _is_known(address.scheme):
            fault = f"MLflow knows no store whose address begins with {address.scheme!r}"
    except ValueError as error:
        fault = f"is no address ({error})"
    if re.fullmatch(r"sqlite(\+\w+)?:/*(:memory:)?", uri):
        fault = "is a store in memory, which is lost"
    if fault:
        raise ValueError(
            f"tracking.uri={uri}: {fault}; write sqlite:////DIR/mlruns.db or "
            "http://HOST:PORT, or set tracking=none"
        )


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where MLflow keeps runs.

    Attributes:
        enabled: Whether anything is logged to MLflow at all.
        uri: Any MLflow store; null is SQLite, ``mlruns.db`` in the output directory.
        artifacts: Artifact root of new experiments; null is ``mlartifacts`` beside it for SQLite
            and the server's own otherwise.
        register: Begins the names of models in MLflow's registry: each task's best checkpoint
            becomes a version of ``NAME-TASK`` with the alias ``best``. Null registers none.
    """

    enabled: bool
    uri: str | None = None
    artifacts: str | None = None
    register: str | None = None

    def __post_init__(self) -> None:
        if self.register is not None and not re.fullmatch(r"[\w.-]+", self.register):
            raise ValueError(
                f"tracking.register={self.register!r}: use letters, digits, _, - and ."
            )
        if self.register is not None and not self.enabled:
            raise ValueError(
                f"tracking.register={self.register!r}: registers nothing with tracking=none; leave "
                "one of the two out"
            )
        for key in ("uri", "artifacts"):
            # Its value may hold a password.
            if getattr(self, key) is not None and not self.enabled:
                raise ValueError(
                    f"tracking.{key}: nothing is logged there with tracking=none; leave one of the "
                    "two out"
                )
        if self.uri is not None:
            _check_address(self.uri)


@dataclass(frozen=True, kw_only=True)
class StoreConfig:
    """What is kept in the output directory; changes no result.

    Attributes:
        keep_snapshots: ``all``, or ``last`` alone: a training's other snapshots are removed once
            their images are drawn and measured. Those of a full fine-tune take 5 to 9 GB each.
            What needs a removed one later (another suite, more images) trains again, and says so.
    """

    keep_snapshots: KeepSnapshots = "all"


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig:
    """Other samplers that images of the last step are drawn with and judged; part of diagnostics.

    What a model's errors off the training path cost in pictures shows where there are more of them.

    Attributes:
        enabled: Whether they are: as many images as the last step has, a sampler each.
        num_inference_steps: Of the samplers without noise.
        state_noise: As ``sampling.state_noise``, of samplers with the usual number of steps.
        guidance_scale: As ``sampling.guidance_scale``, of samplers that are the usual one else;
            methods that are trained without guidance are evaluated without it by their authors.
    """

    enabled: bool
    num_inference_steps: tuple[int, ...]
    state_noise: tuple[float, ...]
    guidance_scale: tuple[float, ...]

    def __post_init__(self) -> None:
        # Without noise it would be the usual sampler by another name.
        positive = "above 0", math.ulp(0.0)
        limits = {
            "num_inference_steps": positive,
            "state_noise": positive,
            "guidance_scale": ("of 1 (none) or more", 1.0),
        }
        for key, (what, least) in limits.items():
            values: tuple[float, ...] = getattr(self, key)
            if not all(least <= value < math.inf for value in values):
                raise ValueError(
                    f"robustness.{key}={list(values)}: give numbers {what}, or [] for none"
                )


@dataclass(frozen=True, kw_only=True)
class ProcessesConfig:
    """How a cell's training is shared out; changes no result.

    Attributes:
        num_processes: That train a cell together, each with a GPU of its own (on a CPU: a share of
            its cores). Null has the launcher choose for each training, so that all GPUs work.
        parallelism: How processes share the work. ``ddp``: each has everything. ``fsdp2``: each has
            a part of weights, gradients and optimiser (torch's FSDP2 through accelerate).
            ``zero2``: as ZeRO's second stage, weights are whole while an update is computed;
            faster and larger than ``fsdp2``, and done by torch's FSDP2 as well.
    """

    # No result depends on them, since every row has its own noise, whoever trains on it.
    num_processes: int | None = 1
    parallelism: Literal["ddp", "fsdp2", "zero2"] = "ddp"

    def __post_init__(self) -> None:
        if self.num_processes is not None and self.num_processes < 1:
            raise ValueError(f"launcher.num_processes={self.num_processes}: must be at least 1")
        if self.parallelism != "ddp" and self.num_processes is None:
            raise ValueError(
                f"launcher.num_processes=null launcher.parallelism={self.parallelism}: how many "
                "share decides whether the weights fit; set launcher.num_processes=N"
            )
        if self.parallelism != "ddp" and self.num_processes == 1:
            raise ValueError(
                f"launcher.parallelism={self.parallelism}: one process has nobody to share with; "
                "set launcher.num_processes=N"
            )

    @property
    def count(self) -> int:
        """Of processes; 1 where the launcher chooses and has not yet."""
        return self.num_processes or 1


@dataclass(frozen=True, kw_only=True)
class LauncherConfig(ProcessesConfig, abc.ABC):
    """Who runs the jobs of a grid, and in which order.

    Attributes:
        shard_minutes: Images are drawn and judged in shards of about so long, so that several
            workers can do a suite at once.
        retries: Workers that a job may lose (killed, or with their node) before it has failed.
        stall_minutes: Without a sign of life of a job, until its worker is ended.
        start_minutes: Until a worker, or a node for one, has to be there.
    """

    #: Name for people.
    kind: ClassVar[str]
    #: Whether it hands the run to a queue, where another launcher runs it.
    submits: ClassVar[bool] = False

    shard_minutes: float = 5.0
    retries: int = 3
    stall_minutes: float = 60.0
    start_minutes: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shard_minutes", "stall_minutes", "start_minutes"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"launcher.{name}={value}: must be a positive number of minutes")
        if self.retries < 0:
            raise ValueError(f"launcher.retries={self.retries}: must be 0 or more")

    @abc.abstractmethod
    def build(self) -> object:
        """The launcher (``soarbench.launchers.base.Launcher``); imports it.

        What ``submits`` builds a ``Submitter`` of that module.
        """
