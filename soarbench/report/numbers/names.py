"""How methods and metrics are named and ordered."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from baselines.awm_config import AwmConfig
from baselines.best_of_group_config import BestOfGroupConfig
from baselines.config import MethodConfig
from baselines.diffusion_nft_config import DiffusionNftConfig
from baselines.flow_grpo_config import FlowGrpoConfig
from baselines.online_dpo_config import OnlineDpoConfig
from baselines.sft_config import SftConfig
from baselines.soar_config import SoarConfig
from soarbench.config.stages import BASE as BASE
from soarbench.config.stages import stages
from soarbench.store.cells import Cell
from soarbench.store.facts import MetricFacts

#: Titles of methods by name, as their cells have them.
Titles = Mapping[str, str]
_CONFIGS: tuple[type[MethodConfig], ...] = (
    *(SftConfig, SoarConfig, FlowGrpoConfig, DiffusionNftConfig, AwmConfig),
    *(BestOfGroupConfig, OnlineDpoConfig),
)
#: In the order of tables and legends; cells of older exports do not say their titles.
METHOD_TITLES = {
    BASE: "Base",
    **{config.kind: config.title for config in _CONFIGS},
}
_NUMBER = re.compile(r"((?<![^\W_])\d+(?:\.\d+)?(?:e-?\d+)?)")


def titles_of(cells: Iterable[Cell]) -> dict[str, str]:
    """What the methods of cells are called, as far as their cells say so."""
    return {cell.method: cell.title for cell in cells if cell.title}


def method_title(method: str, titles: Titles = METHOD_TITLES) -> str:
    """A method's name for people; the stages of one that goes on from another in their order."""
    if method in titles:
        return titles[method]
    return " → ".join(METHOD_TITLES.get(stage, stage) for stage in stages(method))


def step_title(method: str, step: int) -> str:
    """A step for people, who see both stages of a method: which stage it counts in."""
    if method == BASE:
        return "untrained"
    number = len(stages(method))
    return f"step {step:,}" if number == 1 else f"stage {number}, step {step:,}"


def ordered_methods(methods: Collection[str]) -> list[str]:
    """The base first, then as in ``METHOD_TITLES``, then others by name, numbers by size."""
    known = [method for method in METHOD_TITLES if method in methods]
    return known + sorted(set(methods) - set(known), key=_words_and_numbers)


def _words_and_numbers(name: str) -> list[tuple[str, float]]:
    # 1e-05 comes before 0.0003, whose letters come first.
    parts = _NUMBER.split(name)
    numbers = [*map(float, parts[1::2]), 0.0]
    return [*zip(parts[::2], numbers, strict=True), (name, 0.0)]


def distinct_titles(facts: Mapping[str, MetricFacts], first: str = "") -> dict[str, str]:
    """Titles of metrics by name; with the name where others have the title, but for the ``first``.

    Judges of one class, of which each has its own name and settings, share the class's title.
    """
    counts = Counter(one.title for one in facts.values())
    return {
        name: one.title if name == first or counts[one.title] == 1 else f"{one.title} ({name})"
        for name, one in facts.items()
    }


def ordered_metrics(facts: Mapping[str, MetricFacts], final_metric: str) -> list[str]:
    """The deciding metric first, then learned ones as they were configured, then oracles."""
    # Sorting is stable: within a group the configured order stays.
    return sorted(facts, key=lambda name: (name != final_metric, facts[name].is_oracle))
