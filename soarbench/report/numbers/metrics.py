"""How methods and metrics are named, ordered and rounded."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from soarbench.config.stages import stages

BASE = "base"
ORACLE_PREFIX = "oracle_"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a report must know about an evaluator's number.

    Attributes:
        name: Of the evaluator.
        title: For people.
        decimals: Digits after the point; one more than the differences that matter.
        higher_is_better: Which way is up.
        is_macro_mean: Whether the number is the mean of the means of the prompts' tasks (the
            ``tag`` in a score's details), and not the mean over images.
    """

    name: str
    title: str
    decimals: int = 3
    higher_is_better: bool = True
    is_macro_mean: bool = False

    @property
    def is_oracle(self) -> bool:
        """Whether it knows the truth, as only the laboratory can."""
        return self.name.startswith(ORACLE_PREFIX)


#: In the order of the published table; oracles last.
METRICS = {
    metric.name: metric
    for metric in (
        Metric(name="geneval", title="GenEval", is_macro_mean=True),
        Metric(name="ocr", title="OCR"),
        Metric(name="pickscore", title="PickScore"),
        Metric(name="clipscore", title="CLIPScore", decimals=4),
        Metric(name="hpsv21", title="HPSv2.1", decimals=4),
        Metric(name="aesthetic", title="Aesthetic"),
        Metric(name="imagereward", title="ImageReward"),
        Metric(name="unifiedreward", title="UnifiedReward"),
        Metric(name="oracle_geneval", title="GenEval (oracle)", is_macro_mean=True),
        Metric(name="oracle_ocr", title="OCR (oracle)"),
        Metric(name="oracle_aesthetic", title="Aesthetic (oracle)"),
    )
}
METHOD_TITLES = {BASE: "Base", "sft": "SFT", "soar": "SOAR", "flow_grpo": "Flow-GRPO"}


def metric_of(evaluator: str) -> Metric:
    """Facts about an evaluator's number; one that is not known is a mean, higher is better."""
    return METRICS.get(evaluator) or Metric(name=evaluator, title=evaluator)


def method_title(method: str) -> str:
    """A method's name for people; the stages of one that goes on from another in their order."""
    return " → ".join(METHOD_TITLES.get(stage, stage) for stage in stages(method))


def step_title(method: str, step: int) -> str:
    """A step for people, who see both stages of a method: which stage it counts in."""
    if method == BASE:
        return "untrained"
    number = len(stages(method))
    return f"step {step:,}" if number == 1 else f"stage {number}, step {step:,}"


def ordered_methods(methods: Collection[str]) -> list[str]:
    """The base first, then as in ``METHOD_TITLES``, then others by name."""
    known = [method for method in METHOD_TITLES if method in methods]
    return known + sorted(set(methods) - set(known))


def ordered_metrics(evaluators: Collection[str], final_metric: str) -> list[str]:
    """The deciding metric first, then learned ones in the published order, then oracles."""
    known = list(METRICS)

    def rank(name: str) -> tuple[bool, bool, int, str]:
        position = known.index(name) if name in METRICS else len(known)
        return (name != final_metric, metric_of(name).is_oracle, position, name)

    return sorted(set(evaluators), key=rank)
