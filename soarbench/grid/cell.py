"""A cell of a grid: one method in one task with one seed, and what it is measured by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from baselines.config import EmaConfig, LoraConfig, MethodConfig, OptimConfig, TrainingConfig
from evaluators.base import JudgeConfig
from evaluators.diversity.config import DiversityConfig
from soarbench.common.strict import ADDRESS
from soarbench.config.settings import SamplingConfig, SuiteConfig, TaskConfig
from soarbench.config.stages import BASE
from soarbench.data.config import DataConfig
from soarbench.models.base import ModelConfig


@dataclass(frozen=True, kw_only=True)
class CellConfig:
    """Everything that a cell's numbers depend on; artefacts are named by it, and shared.

    Of the base model ``task``, ``method`` and the five after it are null.

    Attributes:
        method_name: ``base`` for the untouched model.
        seed: Of training; evaluation noise does not depend on it.
        lora: Adapter; null trains all weights.
        rewards: A reward method's rewards with their weights; empty for other methods.
        judges: Those that the suites, the data and the rewards name.
        weights_digest: Of the base's weights (and of an adapter's).
        diversity: Measures of how unlike a prompt's images are, by name.
        parent: The first stage whose last weights this cell starts from; null: the base's.
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
    # Measured beside the scores; each has an address of its own.
    diversity: Mapping[str, DiversityConfig] = field(default_factory=dict, metadata=ADDRESS)
    # Its training's address stands for it.
    parent: CellConfig | None = field(default=None, metadata=ADDRESS)

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
    def title(self) -> str | None:
        """What the method, stage by stage, calls itself; None where nothing is trained."""
        titles = [one.method.title for one in (*self.lineage, self) if one.method is not None]
        return " → ".join(titles) or None

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps whose images are evaluated."""
        return (0,) if self.training is None else self.training.snapshot_steps

    def measures(self, suite: SuiteConfig) -> list[str]:
        """Measures of diversity of a suite; none where prompts have one image."""
        return sorted(self.diversity) if suite.images_per_prompt > 1 else []

    @property
    def lineage(self) -> tuple[CellConfig, ...]:
        """The stages before this one, the first one first."""
        return () if self.parent is None else (*self.parent.lineage, self.parent)
