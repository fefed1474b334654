"""What a run consists of, as frozen dataclasses; imports no framework.

``composition`` makes ``Settings`` of the YAML under ``conf/`` and the command line; ``grid`` makes
one ``CellConfig`` of it for every cell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from baselines.config import (
    ADDRESS,
    EmaConfig,
    LoraConfig,
    MethodConfig,
    OptimConfig,
    TrainingConfig,
)
from soarbench.common.strict import Component, plain
from soarbench.config.run import BudgetConfig, FigureFormat, LauncherConfig, TrackingConfig
from soarbench.data.config import CurationConfig, DataConfig
from soarbench.models.base import ModelConfig

BASE = "base"
#: Between the stages in the name of a method that starts from another's weights.
THEN = "_then_"


def stages(method_name: str) -> tuple[str, ...]:
    """The methods that train one after the other: ``soar_then_flow_grpo`` has two."""
    return tuple(method_name.split(THEN))


def first_stage(method_name: str) -> str:
    """The method whose weights this one starts from; empty for one that starts from the base."""
    return THEN.join(stages(method_name)[:-1])


def _at_least(key: str, value: float, least: float) -> None:
    if value < least:
        raise ValueError(f"{key}={value}: must be at least {least}")


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """Which cells are compared.

    Attributes:
        name: Of the grid; its run folder, experiment and reports carry it.
        description: One line for the list of grids.
        methods: Trained in every task; the base model is always evaluated beside them.
            ``soar_then_flow_grpo`` is Flow-GRPO on the weights that SOAR ended with.
        tasks: Each names data, a reward, suites and a final metric.
        baseline: The method that the others' differences are taken to.
        checkpoint_rule: Which step of every curve the figures mark, fixed before anything is run:
            ``last``, or ``best:NAME`` for the step that evaluator NAME likes best, which no task
            of the grid may train on and which may not be an oracle.
    """

    name: str
    description: str = field(metadata=ADDRESS)
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    baseline: str = "sft"
    checkpoint_rule: str = "last"


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What a method is asked to improve, and how that is measured.

    Attributes:
        name: Of the task.
        description: One line.
        final_metric: Evaluator whose value decides.
        oracle_metrics: Evaluators that know the truth, shown beside it.
        reward: What Flow-GRPO optimises: an evaluator's name, ``aesthetic``, ``alignment``, a
            dotted path to a function of TRL's convention, or a mapping of these to weights.
        published_steps: Optimiser updates of the published runs; ``budget=published`` takes them.
        curation: Which part of a set of images is trained on; other sets have their own.
    """

    name: str
    description: str = field(metadata=ADDRESS)
    final_metric: str
    oracle_metrics: tuple[str, ...] = ()
    reward: str | dict[str, float] | None = None
    published_steps: int | None = None
    curation: CurationConfig = field(default_factory=CurationConfig)


@dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """A prompt suite and what judges its images.

    Attributes:
        name: Of the suite (``soarbench.evaluation.suites``).
        evaluators: Names of the judges.
        images_per_prompt: Images of each prompt, each with a seed of its own.
        max_prompts: Evaluate this many, evenly spaced; null takes all.
        prompts: File of prompts, for suites that do not bring their own (``drawbench``, ``ocr``).
        prompts_sha256: Of that file; filled in when a grid is expanded.
    """

    name: str
    evaluators: tuple[str, ...]
    images_per_prompt: int = 1
    max_prompts: int | None = None
    prompts: str | None = field(default=None, metadata=ADDRESS)
    prompts_sha256: str | None = None

    def __post_init__(self) -> None:
        _at_least("images_per_prompt", self.images_per_prompt, 1)
        if self.max_prompts is not None:
            _at_least("max_prompts", self.max_prompts, 1)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How evaluation images are made.

    Attributes:
        num_inference_steps: Euler steps of the pipeline's schedule.
        guidance_scale: Classifier-free guidance; 1.0 is off.
        batch_size: Images at once; does not change which noise an image gets.
    """

    num_inference_steps: int
    guidance_scale: float
    batch_size: int = field(metadata=ADDRESS)

    def __post_init__(self) -> None:
        _at_least("num_inference_steps", self.num_inference_steps, 1)
        _at_least("guidance_scale", self.guidance_scale, 0)
        _at_least("batch_size", self.batch_size, 1)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that one composition of the YAML says: the run, and one method in one task.

    Attributes:
        grid: Which cells there are.
        method: Of this composition; null for the base model.
        optim: The method's optimiser.
        lora: Adapter; null trains all weights.
        ema: Averaged weights; null evaluates the last ones.
        training: The loop.
        task: Of this composition.
        reward: ``task.reward``, unless the command line says otherwise.
        data: Training rows.
        suites: What is evaluated, by a short name.
        model: The base.
        sampling: How evaluation images are made.
        evaluators: How each judge is made.
        budget: Sizes.
        seeds: Training seeds.
        output_dir: State: cells, checkpoints, images, the MLflow store.
        results_dir: Reports.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        diagnostics: Whether finished cells are measured for signs of gaming.
        figure_formats: What figures are written as; png, which pages show, is among them.
        tracking: MLflow.
        launcher: Who runs the cells.
    """

    grid: GridConfig
    method: MethodConfig | None
    optim: OptimConfig | None
    lora: LoraConfig | None
    ema: EmaConfig | None
    training: TrainingConfig | None
    task: TaskConfig
    reward: str | dict[str, float] | None
    data: DataConfig
    suites: dict[str, SuiteConfig]
    model: ModelConfig
    sampling: SamplingConfig
    evaluators: dict[str, Component]
    budget: BudgetConfig
    seeds: tuple[int, ...]
    output_dir: str
    results_dir: str
    device: str
    diagnostics: bool
    figure_formats: tuple[FigureFormat, ...]
    tracking: TrackingConfig
    launcher: LauncherConfig


@dataclass(frozen=True, kw_only=True)
class ParentConfig:
    """The cell whose weights another starts from.

    Attributes:
        cell_id: Its address.
        step: Of its snapshot; the last one.
        parent: Whose weights that one started from.
    """

    cell_id: str
    step: int
    parent: ParentConfig | None = None


@dataclass(frozen=True, kw_only=True)
class CellConfig:
    """Everything that a cell's numbers depend on; its digest is its address.

    Attributes:
        grid: Name of the grid.
        method_name: ``base`` for the untouched model.
        task: Null for the base model.
        seed: Of training; evaluation noise does not depend on it.
        method: Null for the base model, like the next five.
        optim: The method's optimiser.
        lora: Adapter; null trains all weights.
        ema: Averaged weights.
        training: The loop.
        data: Training rows.
        rewards: Flow-GRPO's rewards with their weights; empty for other methods.
        suites: What is evaluated.
        model: The base.
        sampling: How evaluation images are made.
        evaluators: The judges that the suites name.
        weights_digest: Digest of the base's weights (and of the laboratory's other assets).
        parent: The first stage whose weights this cell starts from; null: the base's.
    """

    grid: str
    method_name: str
    task: TaskConfig | None
    seed: int
    method: MethodConfig | None
    optim: OptimConfig | None
    lora: LoraConfig | None
    ema: EmaConfig | None
    training: TrainingConfig | None
    data: DataConfig | None
    rewards: Mapping[str, float]
    suites: Mapping[str, SuiteConfig]
    model: ModelConfig
    sampling: SamplingConfig
    evaluators: Mapping[str, Component]
    weights_digest: str
    parent: ParentConfig | None = None

    @property
    def task_name(self) -> str:
        """Name of the task; ``base`` for the base model."""
        return BASE if self.task is None else self.task.name

    @property
    def label(self) -> str:
        """For people: method, task and seed."""
        if self.task is None:
            return BASE
        return f"{self.method_name} {self.task_name} seed {self.seed}"

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps whose images are evaluated."""
        return (0,) if self.training is None else self.training.snapshot_steps

    def content(self) -> dict[str, object]:
        """The configuration as plain JSON values."""
        found: dict[str, object] = json.loads(json.dumps(plain(self)))
        return found

    @property
    def cell_id(self) -> str:
        """Method, task and seed in words, and the sha256 of the content."""
        text = json.dumps(self.content(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        words = self.method_name if self.task is None else f"{self.method_name}-{self.task_name}"
        return f"{words}-seed{self.seed}-{digest}"
