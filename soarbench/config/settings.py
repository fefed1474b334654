"""What a run consists of, as frozen dataclasses; imports no framework."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from baselines.config import (
    ADDRESS,
    ADDRESS_IF_SET,
    GREATEST_GUIDANCE,
    EmaConfig,
    LoraConfig,
    MethodConfig,
    OptimConfig,
    TrainingConfig,
)
from evaluators.base import JudgeConfig
from evaluators.batches import at_once
from evaluators.diversity.config import DiversityConfig
from soarbench.config.run import (
    BudgetConfig,
    FigureFormat,
    LauncherConfig,
    RobustnessConfig,
    Stale,
    StoreConfig,
    TrackingConfig,
    require_folder_name,
)
from soarbench.config.stages import BASE, THEN, stages
from soarbench.config.suites import SuiteConfig as SuiteConfig
from soarbench.data.config import CurationConfig, DataConfig
from soarbench.models.base import ModelConfig

#: Pixels of an image, for which ``sampling.batch_size`` is stated: the published evaluation's.
_SAMPLED_PIXELS = 512**2
#: Already the training grid of a scheduler has a tenth of it.
_MOST_SAMPLING_STEPS = 10_000


@dataclass(frozen=True, kw_only=True)
class VariantConfig:
    """A method with settings of its own, which a grid names as if it were another method.

    Attributes:
        of: The method; ``base`` is drawn with other settings, published weights
            (``model.adapter``) among them, and never trained.
        title: For tables and figures.
        settings: ``KEY=VALUE``, written as on the command line and applied after it.
        factors: ``KEY=FACTOR``: numbers that are multiplied, whatever recipe, command line and
            ``settings`` say they are; ``1/3`` is a factor, too.
        cost_of: Another method or variant of the grid; training takes the steps that come nearest
            to its forward equivalents, whatever ``training.steps`` is.
    """

    of: str
    title: str
    settings: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()
    cost_of: str | None = None


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """Which cells are compared.

    Attributes:
        name: Of the grid; its run folder, experiment and reports carry it.
        description: One line for the list of grids.
        methods: Trained in every task; the base model is always evaluated beside them.
            ``soar_then_flow_grpo`` is Flow-GRPO on the weights that SOAR ended with.
        variants: Methods with other settings, by the names that ``methods`` has for them.
        tasks: Each names data, a reward, suites and a final metric.
        baseline: The method that the others' differences are taken to.
        checkpoint_rule: Which step of every curve the figures mark: ``last``, or ``best:NAME`` for
            the step that evaluator NAME likes best, which no task of the grid may train on and
            which may not be an oracle.
        selects: Whether the grid chooses among settings: its report then says which variant of each
            method is the best.
    """

    name: str
    description: str = field(metadata=ADDRESS)
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    baseline: str = "sft"
    # Fixed before anything is run: a step chosen by the metric that is reported looks too good.
    checkpoint_rule: str = "last"
    variants: dict[str, VariantConfig] = field(default_factory=dict)
    selects: bool = False

    @property
    def untrained(self) -> tuple[str, ...]:
        """Variants of the base, which are evaluated alone."""
        return tuple(name for name, one in self.variants.items() if one.of == BASE)

    def __post_init__(self) -> None:
        require_folder_name("grid.name", self.name)
        for name in self.variants:
            if not re.fullmatch(r"\w[\w.-]*", name) or len(stages(name)) > 1:
                raise ValueError(
                    f"grid.variants.{name}: is the name of folders and of one stage; use letters, "
                    f"digits, _, - and ., and no {THEN}"
                )


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
    # A reworded description must not make the same training a new one.
    description: str = field(metadata=ADDRESS)
    final_metric: str
    oracle_metrics: tuple[str, ...] = ()
    reward: str | dict[str, float] | None = None
    published_steps: int | None = None
    curation: CurationConfig = field(default_factory=CurationConfig)

    def __post_init__(self) -> None:
        require_folder_name("task.name", self.name)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How evaluation images are made.

    Attributes:
        num_inference_steps: Euler steps of the pipeline's schedule.
        guidance_scale: Classifier-free guidance; 1.0 is off.
        batch_size: Images at once, of 512 x 512 pixels or fewer; larger ones are so many fewer.
            Does not change which noise an image gets.
        state_noise: Fresh noise in every state but the last, RMS of a whole way from noise to image
            that removed none of it; null adds none.
    """

    num_inference_steps: int
    guidance_scale: float
    # In no address: an image's noise comes from its prompt id and index, whichever batch it is in.
    batch_size: int = field(metadata=ADDRESS)
    state_noise: float | None = field(default=None, metadata=ADDRESS_IF_SET)

    def __post_init__(self) -> None:
        if self.state_noise is not None and not 0 < self.state_noise < math.inf:
            raise ValueError(f"state_noise={self.state_noise}: must be above 0, or null for none")
        limits = {
            "num_inference_steps": (1, _MOST_SAMPLING_STEPS),
            # Below 1 the prompt counts for less than without guidance; diffusers takes 0 for off.
            "guidance_scale": (1, GREATEST_GUIDANCE),
            "batch_size": (1, math.inf),
        }
        for key, (least, most) in limits.items():
            # Not ``<``, which nan passes; images drawn with an infinite guidance are black.
            if not least <= getattr(self, key) <= most:
                raise ValueError(f"{key}={getattr(self, key)}: must be in {least}..{most:g}")

    def images_at_once(self, resolution: int) -> int:
        """How many images of a resolution are drawn together."""
        # By the resolution alone: which images share a batch may not depend on what is missing.
        return at_once(self.batch_size, resolution**2, usual=_SAMPLED_PIXELS)

    def others(self, robustness: RobustnessConfig) -> tuple[SamplingConfig, ...]:
        """The samplers of ``robustness`` without this one; none where it is not enabled."""
        if not robustness.enabled:
            return ()
        steps, noise = robustness.num_inference_steps, robustness.state_noise
        samplers = [replace(self, num_inference_steps=count, state_noise=None) for count in steps]
        samplers += [replace(self, state_noise=scale) for scale in noise]
        samplers += [replace(self, guidance_scale=scale) for scale in robustness.guidance_scale]
        return tuple(one for one in dict.fromkeys(samplers) if one != self)


def sizes_by_metric(key: str, texts: Sequence[str]) -> dict[str, float]:
    """Sizes of differences by metric, of ``METRIC:NUMBER`` each; ``ValueError`` names the key."""
    sizes = {}
    for text in texts:
        metric, _, number = text.rpartition(":")
        try:
            size = float(number)
        except ValueError:
            size = math.nan
        # Not ``size <= 0``, which nan passes.
        if not metric or not 0 < size < math.inf:
            raise ValueError(
                f"{key}={text}: write METRIC:NUMBER, the number above 0, e.g. {key}=CLIPScore:0.01"
            )
        sizes[metric] = size
    return sizes


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
        reward_scale: ``own``, or ``base``: each reward is divided by its spread over images that
            the base model draws of training prompts, so that weights need not balance units.
        data: Training rows.
        suites: What is evaluated, by a short name.
        model: The base.
        sampling: How evaluation images are made.
        judge: Every judge by name: those of ``conf/judge``, some of which a model replaces.
        budget: Sizes.
        seeds: Training seeds.
        output_dir: State: cells, checkpoints, images, the MLflow store.
        results_dir: Reports.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        diagnostics: Whether finished cells are measured for signs of gaming.
        margin: Differences that count as none, e.g. ``CLIPScore:0.01``: a tie within it is called
            equivalent.
        detect: Differences that should be seen, written alike: of these reports say what would
            decide them.
        robustness: Part of the diagnostics.
        figure_formats: What figures are written as; png, which pages show, is among them. Without
            any, their data alone are written.
        tracking: MLflow.
        launcher: Who runs the jobs.
        store: What is kept.
        diversity: Measures of how unlike a prompt's images are, taken with ``diagnostics``.
        stale: What becomes of results that other code than today's made: ``warn`` takes them and
            says so, ``rerun`` makes them again, ``refuse`` ends the command.
    """

    grid: GridConfig
    method: MethodConfig | None
    optim: OptimConfig | None
    lora: LoraConfig | None
    ema: EmaConfig | None
    training: TrainingConfig | None
    task: TaskConfig
    reward: str | dict[str, float] | None
    reward_scale: Literal["own", "base"]
    data: DataConfig
    suites: dict[str, SuiteConfig]
    model: ModelConfig
    sampling: SamplingConfig
    judge: dict[str, JudgeConfig]
    budget: BudgetConfig
    seeds: tuple[int, ...]
    output_dir: str
    results_dir: str
    device: str
    diagnostics: bool
    robustness: RobustnessConfig
    figure_formats: tuple[FigureFormat, ...]
    tracking: TrackingConfig
    launcher: LauncherConfig
    store: StoreConfig = field(default_factory=StoreConfig)
    diversity: dict[str, DiversityConfig] = field(default_factory=dict)
    stale: Stale = "warn"
    margin: tuple[str, ...] = ()
    detect: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.figure_formats and "png" not in self.figure_formats:
            raise ValueError(
                f"figure_formats={list(self.figure_formats)}: png must be among them, since pages "
                "show it; [] draws none"
            )
        for key in ("margin", "detect"):
            sizes_by_metric(key, getattr(self, key))
