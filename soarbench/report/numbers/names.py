"""How methods and metrics are named and ordered."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from soarbench.config.stages import BASE as BASE
from soarbench.config.stages import stages
from soarbench.store.facts import MetricFacts

#: In the order of tables and legends; a method that is not here goes by its own name.
METHOD_TITLES = {BASE: "Base", "sft": "SFT", "soar": "SOAR", "flow_grpo": "Flow-GRPO"}


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


def ordered_metrics(facts: Mapping[str, MetricFacts], final_metric: str) -> list[str]:
    """The deciding metric first, then learned ones as they were configured, then oracles."""
    # Sorting is stable: within a group the configured order stays.
    return sorted(facts, key=lambda name: (name != final_metric, facts[name].is_oracle))
