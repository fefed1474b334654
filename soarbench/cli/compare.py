"""``python -m soarbench compare A B``: is A better than B, by how much, how sure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from soarbench.cli.compare_sides import Question, find
from soarbench.common.errors import UserError
from soarbench.common.strict import did_you_mean
from soarbench.config.keys import Options
from soarbench.config.settings import sizes_by_metric
from soarbench.report.build import reference_folder
from soarbench.report.numbers.estimates import Targets, refuse_unknown_metrics, size_of
from soarbench.report.numbers.names import (
    Titles,
    method_title,
)
from soarbench.report.numbers.pairs import Answer, Pair, answers
from soarbench.report.numbers.reference import published_scores
from soarbench.report.numbers.tables import (
    finding,
    how_decided,
    margin_note,
    p_text,
    problem_note,
    seed_notes,
)
from soarbench.report.source import own_settings
from soarbench.report.text.frames import number_text
from soarbench.report.text.tuning import settings_text
from soarbench.stats import Verdict


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    """What ``compare`` takes beside the settings of a run.

    Attributes:
        metric: One of them; null: all.
        step: Optimiser step; null: the last.
    """

    metric: str | None = None
    step: int | None = None


def compare(
    first: str,
    second: str,
    options: CompareOptions,
    settings: Sequence[str],
    *,
    as_json: bool,
    console: Console,
) -> int:
    """Compare two things, of one kind or not, and print text or JSON.

    Each is a method of the grid, a cell (``ID`` or ``ID@STEP``), or a folder that ``score`` or
    ``evaluate`` wrote.
    """
    # Every difference would be zero, which says nothing of either.
    if first == second or _are_one_folder(first, second):
        raise UserError(f"{first} cannot be compared with itself; name two")
    question = find((first, second), settings, options.step)
    pairs = [pair for pair in question.pairs if options.metric in (None, pair.evaluator)]
    if not pairs:
        hint = did_you_mean(str(options.metric), {pair.evaluator for pair in question.pairs})
        raise UserError(f"metric={options.metric!r} was not measured of both: {hint}")
    targets = _targets(question, pairs, options.metric or question.final_metric, settings)
    results = _told_apart(answers(pairs, *targets))
    if as_json:
        # Past rich, which would wrap it to the terminal's width.
        console.file.write(json.dumps(_plain(question, results), indent=1) + "\n")
    else:
        _show(question, results, targets, console)
    return 0


def _told_apart(results: Sequence[Answer]) -> list[Answer]:
    """The answers; their titles name the suite where one judge was asked about several."""
    counts = Counter(one.evaluator for one in results)

    def on_suite(one: Answer) -> Answer:
        facts = replace(one.facts, title=f"{one.facts.title} on {one.suite}")
        return replace(one, facts=facts, comparison=replace(one.comparison, facts=facts))

    return [on_suite(one) if counts[one.evaluator] > 1 else one for one in results]


def _are_one_folder(first: str, second: str) -> bool:
    """Whether both are one folder of scores, of which a shell completes one with a slash."""
    one, other = (Path(name).expanduser() for name in (first, second))
    return one.is_dir() and other.is_dir() and one.samefile(other)


def _targets(
    question: Question, pairs: Sequence[Pair], metric: str, settings: Sequence[str]
) -> list[Targets]:
    """What was said beforehand about the metric that decides, or about each where none does."""
    own = own_settings(settings)
    sizes = {key: sizes_by_metric(key, getattr(own, key)) for key in ("margin", "detect")}
    measured = {pair.evaluator: pair.facts for pair in pairs}
    deciding = [measured[metric]] if metric in measured else list(measured.values())
    for key, named in sizes.items():
        refuse_unknown_metrics(key, named, deciding)
    folder = reference_folder(Path(own.results_dir).expanduser())
    return [
        Targets(
            metric=facts.name,
            margin=size_of(sizes["margin"], facts),
            detect=size_of(sizes["detect"], facts),
            published=published_scores(folder, question.grid, question.task, facts.name),
        )
        for facts in deciding
    ]


def _show(
    question: Question, results: Sequence[Answer], targets: Sequence[Targets], console: Console
) -> None:
    names = [method_title(name, question.titles) for name in question.pairs[0].names]
    # Wrapped, since sentences are read and not copied.
    texts = map(settings_text, question.settings)
    named = zip("AB", names, texts, strict=True)
    heads = [f"{side}: {name}" + (f" ({text})" if text else "") for side, name, text in named]
    for line in (*heads, *filter(None, [question.scope])):
        console.print(line, highlight=False, markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Metric")
    for head in ("A\nB", "A - B [95 %]", "p", "P(A better)"):
        table.add_column(head, justify="right")
    for one in results:
        digits, comparison = one.facts.decimals, one.comparison
        chance, _, ends = number_text(one.improvement, 2).partition(" ")
        table.add_row(
            f"{one.facts.title}\n{comparison.verdict}",
            "\n".join(f"{value:.{digits}f}" for value in one.values),
            escape(number_text(comparison.difference, digits, sign="+")),
            p_text(comparison.shown_p_value).removeprefix("= "),
            f"{chance}\n{escape(ends)}",
        )
    console.print(table)
    for line in _lines(results, question.titles, targets):
        console.print(line, highlight=False, markup=False)


def _lines(results: Sequence[Answer], titles: Titles, targets: Sequence[Targets]) -> list[str]:
    """The first metric's answer in words, and how to read the numbers."""
    first = results[0]
    comparison = first.comparison
    lines = [finding(comparison, titles)]
    if not comparison.is_open and comparison.detectable is not None:
        # Of a tie the finding says it itself.
        digits = first.facts.decimals
        lines.append(f"This design sees {comparison.detectable:.{digits}f} or more.")
    for one in results:
        if one.mcnemar is not None:
            # McNemar's test is exact for independent images; those of one prompt are alike.
            caution = ", taking the images of a prompt as independent" if one.num_images > 1 else ""
            lines.append(
                f"{one.facts.title}: A alone is right on {one.mcnemar.only_first} images, B alone "
                f"on {one.mcnemar.only_second}; McNemar's exact p {p_text(one.mcnemar.p_value)}"
                f"{caution}."
            )
        if one.num_unscored:
            lines.append(
                f"{one.facts.title}: {one.num_unscored} images are left out, since "
                "one of the two has no score of them."
            )
    difference = comparison.difference
    seeds = (
        f"{difference.num_seeds} training seeds"
        if difference.num_seeds > 1
        else "one training seed: the intervals leave out what another seed would change"
    )
    lines.append(
        f"Paired over {difference.num_prompts} prompts with {first.num_images:g} images each and "
        f"{seeds}."
    )
    return [*lines, *_about_family(results, targets)]


def _about_family(results: Sequence[Answer], targets: Sequence[Targets]) -> list[str]:
    """What is decided and how, and what that leaves out."""
    family = [one for one in results if one.comparison.verdict is not Verdict.EXPLORATORY]
    titles = ", ".join(one.facts.title for one in family)
    notes = [f"Decided: {titles}, as asked. {how_decided(len(family))}"]
    names = {one.evaluator: one.facts.title for one in family} if len(targets) > 1 else {}
    notes += [
        margin_note(one.margin, len(family), names.get(one.metric, ""))
        for one in targets
        if one.margin is not None
    ]
    if len(family) < len(results):
        notes.append("Other metrics are exploratory: they decide nothing.")
    notes.append(
        "That covers what was asked here, and not picking this pair after a look at others."
    )
    notes += seed_notes({one.comparison.difference.num_seeds for one in family})
    return notes + [problem_note(one.comparison) for one in family if one.comparison.problem]


def _plain(question: Question, results: Sequence[Answer]) -> dict[str, object]:
    first, second = question.pairs[0].names
    return {
        "first": first,
        "second": second,
        "scope": question.scope,
        "settings": [dict(one) for one in question.settings],
        "metrics": [
            {
                "metric": one.evaluator,
                "suite": one.suite,
                "first": one.values[0],
                "second": one.values[1],
                "difference": vars(one.comparison.difference),
                "verdict": str(one.comparison.verdict),
                "p_value": one.comparison.p_value,
                "adjusted_p_value": one.comparison.adjusted_p_value,
                "probability_of_improvement": vars(one.improvement),
                "mcnemar": None if one.mcnemar is None else vars(one.mcnemar),
                "detectable_difference": one.comparison.detectable,
                "goal": one.comparison.goal,
                "required": one.comparison.required and vars(one.comparison.required),
                "seeds": list(one.comparison.seeds),
                "num_unscored": one.num_unscored,
            }
            for one in results
        ],
    }
