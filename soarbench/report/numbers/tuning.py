"""Which settings a grid of trials chooses: the best trial of each method, over all its tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from soarbench.report.numbers.estimates import compare, estimate
from soarbench.report.numbers.names import BASE, method_title, ordered_methods, titles_of
from soarbench.report.numbers.panels import Panel
from soarbench.report.numbers.settings import Values, settings_of
from soarbench.report.numbers.tables import Panels
from soarbench.stats import Interval
from soarbench.stats.clusters import image_spread
from soarbench.store.cells import Cell

Name = TypeVar("Name")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One choice of settings of a method, in one task.

    Attributes:
        name: Of the variant; of the method itself for its recipe.
        settings: The keys in which trials of the method differ, with this one's values.
        metric: The deciding one.
        decimals: Digits that are shown of it.
        value: At the last step; None without scores.
        gain: Of that over the base, in standard deviations of the base's images.
        to_recipe: Paired difference to the recipe; None for itself.
    """

    task: str
    name: str
    title: str
    settings: Values
    metric: str
    decimals: int = 3
    value: Interval | None = None
    gain: float | None = None
    to_recipe: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The trials of one method.

    Attributes:
        best: The trial of the highest mean gain over tasks; None while one has no scores.
        edges: Keys whose range ends at the best trial's value, so that a better one may lie beyond.
    """

    method: str
    title: str
    trials: tuple[Trial, ...]
    best: str | None = None
    edges: tuple[str, ...] = ()

    def of(self, name: str) -> list[Trial]:
        """One trial in every task."""
        return [one for one in self.trials if one.name == name]

    def mean_gain(self, name: str) -> float | None:
        """Of a trial over tasks; None where one of them has no scores."""
        gains = [one.gain for one in self.of(name)]
        known = [gain for gain in gains if gain is not None]
        return sum(known) / len(known) if len(known) == len(gains) else None

    def span(self, key: str) -> list[float]:
        """Every value that was tried of a setting, ascending; empty where it is no number."""
        values = [one.settings[key] for one in self.trials]
        numbers = {float(v) for v in values if isinstance(v, (int, float))}
        return sorted(numbers) if all(isinstance(v, (int, float)) for v in values) else []


def choices(cells: Sequence[Cell], panels: Panels) -> list[Choice]:
    """What a grid of trials chooses, a method each; empty for any other grid.

    ``cells`` are all that there should be: a method of which a trial is missing chooses nothing, or
    it would have had fewer of them than others.
    """
    titles = titles_of(cells)
    # A store and its export have cells in orders of their own.
    order = ordered_methods({cell.method for cell in cells})
    groups: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda cell: (order.index(cell.method), cell.task)):
        if cell.trial_of:
            groups.setdefault(cell.trial_of, []).append(cell)
    return [
        _chosen(
            Choice(
                method=method,
                title=method_title(method, titles),
                trials=tuple(_trials(method, members, panels, titles)),
            )
        )
        for method, members in groups.items()
    ]


def _chosen(choice: Choice) -> Choice:
    gains = {one.name: choice.mean_gain(one.name) for one in choice.trials}
    known = {name: gain for name, gain in gains.items() if gain is not None}
    if len(known) < len(gains):
        return choice
    best = max(known, key=lambda name: known[name])
    settings = choice.of(best)[0].settings
    edges = [key for key in settings if _is_edge(settings[key], choice.span(key))]
    return replace(choice, best=best, edges=tuple(edges))


def _is_edge(value: object, span: Sequence[float]) -> bool:
    # Nothing tuned goes below 0, and no count below 1: there the range ends, and not the search.
    is_floor = value == 0 or (isinstance(value, int) and value == 1)
    return value in span[-1:] or (value in span[:1] and not is_floor)


def _trials(
    method: str, cells: Sequence[Cell], panels: Panels, titles: Mapping[str, str]
) -> Iterator[Trial]:
    # Seeds of a trial share their settings.
    trials = {(cell.task, cell.method): cell for cell in cells}
    settings = differing({key: settings_of(cell.config) for key, cell in trials.items()})
    for (task, name), cell in trials.items():
        trial = Trial(
            task=task,
            name=name,
            title=method_title(name, titles),
            settings=settings[task, name],
            metric=cell.final_metric or "",
        )
        panel = panels.get((task, trial.metric))
        yield trial if panel is None else _measured(trial, method, panel)


def _measured(trial: Trial, method: str, panel: Panel) -> Trial:
    """The trial with its numbers; as it is where it was not scored."""
    trial = replace(trial, decimals=panel.facts.decimals)
    steps, start = panel.steps(trial.name), panel.steps(BASE)
    value = estimate(panel, trial.name, steps[-1]).interval if steps else None
    before = estimate(panel, BASE, start[-1]).interval if start else None
    if value is None or before is None:
        return trial
    spread = image_spread([panel.values[run] for run in panel.runs(BASE, start[-1])])
    # A base whose images all score alike has no spread: its unit is then the metric's own.
    gain = panel.facts.sign * (value.estimate - before.estimate) / (spread or 1.0)
    recipe = panel.steps(method)
    paired = None
    if trial.name != method and recipe:
        paired = compare(panel, (trial.name, steps[-1]), (method, recipe[-1]))
    difference = None if paired is None else paired.difference
    return replace(trial, value=value, gain=gain, to_recipe=difference)


def differing(trials: Mapping[Name, Values]) -> dict[Name, Values]:
    """Of each trial the settings that are not the same in all."""
    keys = dict.fromkeys(key for values in trials.values() for key in values)
    varied = [key for key in keys if len({repr(v.get(key)) for v in trials.values()}) > 1]
    return {name: {key: v.get(key) for key in varied} for name, v in trials.items()}


def unlike_settings(first: Values, second: Values) -> tuple[Values, Values]:
    """In what two cells' configurations differ, of each; of unlike methods what both can set."""
    # A first stage that the other has not is said by the name of the method.
    if bool(first.get("parent")) != bool(second.get("parent")):
        first, second = ({**config, "parent": None} for config in (first, second))
    sides = [settings_of(config) for config in (first, second)]
    shared = sides[0].keys() & sides[1].keys()
    # Of two methods nearly everything differs, and nobody would find the learning rate in it.
    if any(key not in shared for key in (*sides[0], *sides[1]) if key.startswith("method.")):
        sides = [{key: side[key] for key in side if key in shared} for side in sides]
    by_side = differing(dict(enumerate(sides)))
    return by_side[0], by_side[1]
