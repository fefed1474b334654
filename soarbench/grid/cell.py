"""A cell of a grid: one method in one task with one seed, and what it is measured by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from baselines.config import (
    ADDRESS_IF_SET,
    EmaConfig,
    LoraConfig,
    MethodConfig,
    OptimConfig,
    TrainingConfig,
    cost_unit,
)
from evaluators.base import JudgeConfig
from evaluators.diversity.config import DiversityConfig
from soarbench.common.strict import ADDRESS
from soarbench.config.settings import SamplingConfig, SuiteConfig, TaskConfig, VariantConfig
from soarbench.config.stages import BASE, stages
from soarbench.data.config import DataConfig
from soarbench.models.base import ModelConfig


def as_trained(model: ModelConfig, training: TrainingConfig | None) -> ModelConfig:
    """A model that reads as many tokens of a prompt as in training."""
    length = None if training is None else training.max_sequence_length
    if length is None:
        return model
    # Without T5 evaluation reads 0: training then must not see tokens that say nothing.
    return replace(model, max_sequence_length=min(length, model.max_sequence_length))


@dataclass(frozen=True, kw_only=True)
class CellConfig:
    """Everything that a cell's numbers depend on; artefacts are named by it, and shared.

    Of the base model ``task``, ``method`` and the five after it are null.

    Attributes:
        method_name: ``base`` for the untouched model.
        seed: Of training; evaluation noise does not depend on it.
        lora: Adapter; null trains all weights.
        rewards: A reward method's rewards with their weights; empty for other methods.
        reward_scale: ``own``, or ``base``: divided by their spread over the base's images.
        reward_sampling: Of those images; null where nothing is divided.
        judges: Those that the suites, the data and the rewards name.
        weights_digest: Of the base's weights (and of an adapter's).
        robustness: Samplers that images of the last step are drawn with, too.
        diversity: Measures of how unlike a prompt's images are, by name.
        costs: Forward equivalents, first stages included, at which the methods of its task are
            compared; those that it never reaches among them.
        parent: The first stage whose last weights this cell starts from; null: the base's.
        variant: What makes the method another one than ``method.kind``'s; null: nothing.
        is_trial: Whether its grid chooses among settings.
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
    judges: Mapping[str, JudgeConfig]
    weights_digest: str
    reward_scale: str = field(default="own", metadata=ADDRESS_IF_SET)
    # Not ``sampling``, of which a cell by another sampler (``robustness``) has another one, and
    # the same training.
    reward_sampling: SamplingConfig | None = field(default=None, metadata=ADDRESS_IF_SET)
    # Their images have addresses of their own.
    robustness: tuple[SamplingConfig, ...] = field(default=(), metadata=ADDRESS)
    # Measured beside the scores; each has an address of its own.
    diversity: Mapping[str, DiversityConfig] = field(default_factory=dict, metadata=ADDRESS)
    # Its training's address stands for it.
    parent: CellConfig | None = field(default=None, metadata=ADDRESS)
    # Names alone: the settings that it comes to are above.
    variant: VariantConfig | None = field(default=None, metadata=ADDRESS)
    is_trial: bool = field(default=False, metadata=ADDRESS)
    costs: tuple[float, ...] = ()

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
    def trained_model(self) -> ModelConfig:
        """The model as it is trained, which may read fewer tokens of a prompt than evaluation."""
        return as_trained(self.model, self.training)

    @property
    def title(self) -> str | None:
        """What the method, stage by stage, calls itself; None where nothing is trained."""
        titles = [one._stage_title for one in (*self.lineage, self)]
        return " → ".join(title for title in titles if title) or None

    @property
    def _stage_title(self) -> str | None:
        """Of this stage alone; a preset of a method (``flow_grpo_fast``) says which."""
        if self.variant is not None or self.method is None:
            return None if self.variant is None else self.variant.title
        method, name = self.method, stages(self.method_name)[-1]
        preset = name.removeprefix(f"{method.kind}_")
        return method.title if preset == name else f"{method.title} ({preset})"

    @property
    def trial_of(self) -> str | None:
        """The method that its grid chooses settings of; None in any other grid."""
        origin = self.method_name if self.variant is None else self.variant.of
        return origin if self.is_trial else None

    @property
    def own_steps(self) -> tuple[int, ...]:
        """Steps that are evaluated whatever other methods cost, ascending."""
        return (0,) if self.training is None else self.training.snapshot_steps

    def measures(self, suite: SuiteConfig) -> list[str]:
        """Measures of diversity of a suite; none where prompts have one image."""
        return sorted(self.diversity) if suite.images_per_prompt > 1 else []

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps whose images are evaluated, ascending."""
        # Weights do not depend on which of them are kept, so that no address holds the others.
        return tuple(sorted({*self.own_steps, *self.cost_steps}))

    @property
    def cost_steps(self) -> dict[int, float]:
        """The step that is nearest to each of ``costs`` within this stage, and that cost.

        The last one, or a multiple of the method's ``cost_unit``; none before weights that are
        evaluated as an average are averaged for the first time.
        """
        if self.training is None or self.method is None:
            return {}
        before, update = self.cost_at(0), self.cost_at(1) - self.cost_at(0)
        unit, last = cost_unit(self.method, self.ema), self.training.steps
        updates = {cost: (cost - before) / update for cost in self.costs}
        nearest = {
            # Its end is what a training gives, whatever is averaged.
            last if round(count) == last else unit * round(count / unit): cost
            for cost, count in updates.items()
        }
        first = 1 if self.ema is None else self.ema.every
        return {step: cost for step, cost in nearest.items() if first <= step <= last}

    def cost_at(self, step: int) -> float:
        """Forward equivalents of training up to a step, first stages included, as planned."""
        if self.training is None or self.method is None:
            return 0.0
        before = 0.0 if self.parent is None else self.parent.cost_at(self.parent.own_steps[-1])
        return before + step * self.training.update_cost(self.method)

    @property
    def lineage(self) -> tuple[CellConfig, ...]:
        """The stages before this one, the first one first."""
        return () if self.parent is None else (*self.parent.lineage, self.parent)
