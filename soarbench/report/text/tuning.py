"""What a grid of trials chooses, as numbers for CSV and as texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from soarbench.report.numbers.settings import Values
from soarbench.report.numbers.tuning import Choice
from soarbench.report.text.frames import NOTHING, number_text

NOTE = (
    "The best trial of a method is the one of the highest mean gain over tasks, in standard "
    "deviations of the base's images. As the best of several it looks better than it is: these "
    "numbers choose settings, and are no results. An edge is an end of the range that was tried "
    "(0 is none, nor is 1 of a count): a better value may lie beyond."
)
_COLUMNS = (
    "method", "trial", "task", "metric", "settings", "value", "low", "high",
    "to_recipe", "to_recipe_low", "to_recipe_high", "gain", "mean_gain", "is_best", "edges",
)  # fmt: skip


def tuning_numbers(choices: Sequence[Choice]) -> pd.DataFrame:
    """A row a trial and task."""
    rows = []
    for choice in choices:
        for one in choice.trials:
            intervals = [
                number
                for interval in (one.value, one.to_recipe)
                for number in (
                    (None, None, None)
                    if interval is None
                    else (interval.estimate, interval.low, interval.high)
                )
            ]
            is_best = one.name == choice.best
            edges = "; ".join(choice.edges) if is_best else ""
            names = (choice.method, one.name, one.task, one.metric, settings_text(one.settings))
            gains = (one.gain, choice.mean_gain(one.name), is_best, edges)
            rows.append((*names, *intervals, *gains))
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def settings_text(settings: Values) -> str:
    """Settings as the command line says them."""
    return " ".join(f"{key}={_plain(value)}" for key, value in settings.items())


def _plain(value: object) -> str:
    if value is None:
        return "null"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def tuning_texts(choices: Sequence[Choice]) -> pd.DataFrame:
    """As ``tuning_numbers``, for people."""
    rows = []
    for choice in choices:
        for one in choice.trials:
            value = NOTHING if one.value is None else number_text(one.value, one.decimals)
            paired = one.to_recipe
            to_recipe = NOTHING if paired is None else number_text(paired, one.decimals, sign="+")
            mean = choice.mean_gain(one.name)
            gain = NOTHING if mean is None else f"{mean:+.3f}"
            mark = "best" if one.name == choice.best else ""
            settings = settings_text(one.settings)
            rows.append((one.title, one.task, value, to_recipe, gain, mark, settings))
    heads = ("Trial", "Task", "Value [95 %]", "vs recipe [95 %]", "Mean gain", "Best", "Settings")
    return pd.DataFrame(rows, columns=list(heads))


def choice_lines(choices: Sequence[Choice]) -> Iterator[str]:
    """A line a method: its best trial, and what speaks against taking it for the best there is."""
    for choice in choices:
        if choice.best is None:
            missing = ", ".join(sorted({one.name for one in choice.trials if one.value is None}))
            yield f"{choice.title}: nothing is chosen, as long as {missing} is missing."
            continue
        best = choice.of(choice.best)
        values = "; ".join(
            f"{one.task} {number_text(one.value, one.decimals)}" for one in best if one.value
        )
        text = (
            f"{choice.title}: the best of {len(choice.trials) // len(best)} trials is "
            f"{choice.best} ({settings_text(best[0].settings)}), {values}"
        )
        spans = {key: choice.span(key) for key in choice.edges}
        edges = [f"{key} ({_plain(s[0])} to {_plain(s[-1])})" for key, s in spans.items()]
        where = f"at the edge of {', '.join(edges)}: try beyond it" if edges else "at no edge"
        yield f"{text}; {where}."
