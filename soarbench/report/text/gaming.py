"""Whether gains are real, in words: score against truth, and the diversity of images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from soarbench.report.numbers.diversity import Diversity
from soarbench.report.numbers.estimates import Comparison
from soarbench.report.numbers.gaming import Gaming, GamingPoint
from soarbench.report.numbers.names import BASE, Titles, method_title
from soarbench.report.numbers.tables import HOW_DECIDED, finding, p_text, seed_notes
from soarbench.report.text.frames import NOTHING, number_text, value_text
from soarbench.stats.intervals import Interval

_INTERVALS = ("proxy_gain", "true_gain", "shortfall", "correlation")


def point_numbers(measured: Sequence[Gaming]) -> pd.DataFrame:
    """A row a score, what it is held against, method, step and start of its gains."""
    return pd.DataFrame([line for one in measured for line in _point_lines(one)])


def _point_lines(one: Gaming) -> Iterator[dict[str, object]]:
    best_of = 0 if one.benchmark is None else one.benchmark.counts[-1]
    rate = None if one.benchmark is None else one.benchmark.rate
    for point in one.points:
        line: dict[str, object] = {
            "task": one.task, "proxy": one.proxy.name, "truth": one.truth.name,
            "is_oracle": one.truth.is_oracle, "method": point.method, "step": point.step,
            "since": point.since, "rate": point.rate, "best_of": best_of,
        }  # fmt: skip
        intervals = {name: getattr(point, name) for name in _INTERVALS} | {"benchmark_rate": rate}
        for name, interval in intervals.items():
            line |= _ends(name, interval)
        counts = point.proxy_gain.num_prompts, point.proxy_gain.num_seeds
        yield line | dict(zip(("num_prompts", "num_seeds"), counts, strict=True))


def _ends(name: str, interval: Interval | None) -> dict[str, float]:
    ends = (math.nan,) * 3
    if interval is not None:
        ends = interval.estimate, interval.low, interval.high
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


def sign_numbers(measured: Sequence[Gaming], diversity: Sequence[Diversity]) -> pd.DataFrame:
    """A row a test: shortfalls against none, their contrasts, and differences of diversity."""
    lines = []
    for one in measured:
        names = {"task": one.task, "metric": one.proxy.name, "truth": one.truth.name}
        for kind, family in (("shortfall", one.levels), ("contrast", one.contrasts)):
            lines += [
                {**names, "test": kind, "since": since, **_test_line(comparison)}
                for (_, since), comparison in family.items()
            ]
    lines += [
        {"task": one.task, "metric": measure, "test": "diversity", **_test_line(comparison)}
        for one in diversity
        for (_, measure), comparison in one.comparisons.items()
    ]
    columns = ("task", "metric", "truth", "test", "since", *_TEST_COLUMNS)
    return pd.DataFrame(lines, columns=columns)


_TEST_COLUMNS = (
    "method", "baseline", "difference", "difference_low", "difference_high", "p_value",
    "adjusted_p_value", "verdict", "num_prompts", "num_seeds",
)  # fmt: skip


def _test_line(one: Comparison) -> dict[str, object]:
    return {
        "method": one.method, "baseline": one.baseline, **_ends("difference", one.difference),
        "p_value": one.p_value, "adjusted_p_value": one.adjusted_p_value,
        "verdict": str(one.verdict), "num_prompts": one.difference.num_prompts,
        "num_seeds": one.difference.num_seeds,
    }  # fmt: skip


def gaming_title(one: Gaming) -> str:
    """Of its table."""
    kind = "" if one.truth.is_oracle else ", a held-out judge"
    return f"{one.proxy.title} against {one.truth.title}{kind}"


def gaming_texts(one: Gaming, titles: Titles) -> pd.DataFrame:
    """A row a method's last step, and one since its first stage where it has one."""
    # Where nothing was scored at the end, the step before it is no last one.
    ends = (point for point in one.points if point.step == one.ends[point.method])
    last = {(point.method, point.since): point for point in ends}
    lines = []
    for (method, since), point in last.items():
        name = method_title(method, titles)
        if since != BASE:
            name = f"{name}, since {method_title(since, titles)}"
        lines.append((name, *_texts(point, one.levels.get((method, since)))))
    heads = (
        "Method", "Score gain (SD) [95 %]", "True gain (SD) [95 %]", "Rate",
        "Shortfall (SD) [95 %]", "p (Holm)", "Correlation in a prompt [95 %]",
    )  # fmt: skip
    return pd.DataFrame(lines, columns=heads)


def _texts(point: GamingPoint, level: Comparison | None) -> Iterator[str]:
    is_base = point.method == BASE
    for gain in (point.proxy_gain, point.true_gain):
        yield NOTHING if is_base else number_text(gain, 3, sign="+")
    yield NOTHING if math.isnan(point.rate) else f"{point.rate:.2f}"
    shortfall = None if is_base else point.shortfall
    yield NOTHING if shortfall is None else number_text(shortfall, 3, sign="+")
    yield NOTHING if level is None else p_text(level.shown_p_value).removeprefix("= ")
    yield NOTHING if point.correlation is None else number_text(point.correlation, 2)


def gaming_findings(one: Gaming, titles: Titles) -> list[str]:
    """The contrasts in words."""
    return [
        finding(comparison, titles)
        if since == BASE
        else f"Since the first stage: {finding(comparison, titles)}"
        for (_, since), comparison in one.contrasts.items()
    ]


def gaming_note(one: Gaming) -> str:
    """How to read its table."""
    parts = []
    if not one.truth.is_oracle:
        parts.append(
            f"There is no oracle of {one.proxy.title}: it is held against a judge that nothing was "
            "trained on, which learned too and may share its faults."
        )
    if one.benchmark is None:
        parts.append(
            "What an imperfect score gains without exploitation cannot be said: that needs at "
            "least 2 images of a prompt, which the score does not rate alike."
        )
    else:
        rate, gains = one.benchmark.rate, (one.benchmark.proxy_gains, one.benchmark.true_gains)
        parts.append(
            f"Choosing the best of {one.benchmark.counts[-1]} images of a prompt by the score, of "
            f"the base and without training, gains {gains[0][-1]:.2f} SD of the score and "
            f"{gains[1][-1]:.2f} of the truth: a rate of {number_text(rate, 2)}. A shortfall is "
            "what a method's true gain lacks of that rate times its score's; above zero, "
            "where the score gained, training found what the score likes and the truth does not. "
            "In contrasts better is less of it."
        )
    if any(point.correlation is not None for point in one.points):
        parts.append(
            "Correlations are of the two scores of an image within prompts, pooled over prompts; a "
            "narrower spread of images lowers them too."
        )
    if one.levels:
        counts = {comparison.difference.num_seeds for comparison in one.levels.values()}
        parts += [
            f"{HOW_DECIDED}, for the {len(one.levels)} shortfalls and, apart from them, for the "
            f"{len(one.contrasts)} contrasts of this table.",
            *seed_notes(counts),
        ]
    return " ".join(parts)


def diversity_texts(one: Diversity) -> pd.DataFrame:
    """A row a measure and method: value, difference and verdict."""
    lines = []
    for (method, measure), value in one.values.items():
        facts, compared = one.facts[measure], one.comparisons.get((method, measure))
        texts = (NOTHING, NOTHING)
        if compared is not None:
            difference = number_text(compared.difference, facts.decimals, sign="+")
            texts = difference, str(compared.verdict)
        name = method_title(method, one.titles)
        lines.append((name, facts.title, value_text(value, facts), *texts))
    versus = f"vs {method_title(one.baseline, one.titles)} [95 %]"
    return pd.DataFrame(lines, columns=("Method", "Measure", "Value [95 %]", versus, "Verdict"))


def diversity_note(one: Diversity) -> str:
    """How to read its table."""
    deciding, *others = one.facts.values()
    family = [key for key in one.comparisons if key[1] == deciding.name]
    exploratory = "; other measures are exploratory" if others else ""
    return (
        "Of the images of a prompt at the last step, mean over prompts; better is more diverse. "
        f"Differences are paired by prompt and seed. {HOW_DECIDED} for the {len(family)} "
        f"comparisons of {deciding.title}{exploratory}."
    )


def no_diversity_note(task: str) -> str:
    """Why a task whose images were measured has no table of it."""
    return f"task {task}: diversity within a prompt needs at least 2 images of each; it has one"
