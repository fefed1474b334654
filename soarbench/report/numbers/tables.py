"""The comparison table as data: per task, what each method scored, spent, and how it compares."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from soarbench.config.stages import first_stage
from soarbench.report.numbers.estimates import (
    Comparison,
    Estimate,
    Targets,
    final_comparisons,
    final_estimates,
)
from soarbench.report.numbers.names import (
    BASE,
    METHOD_TITLES,
    Titles,
    method_title,
    ordered_methods,
    ordered_metrics,
    titles_of,
)
from soarbench.report.numbers.panels import Panel
from soarbench.stats.intervals import ALPHA, Interval
from soarbench.stats.power import MOST
from soarbench.stats.significance import Verdict
from soarbench.store.cells import Cell, Hole
from soarbench.store.facts import MetricFacts

#: Names in ``status.json`` and the columns' heads.
BUDGET_COLUMNS = {
    "optimizer_steps": "Steps",
    "forward_equivalents": "Forward equivalents",
    "reward_calls": "Reward calls",
    "seconds": "Seconds",
}
#: By (task, evaluator).
Panels = Mapping[tuple[str, str], Panel]


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One method in one task.

    Attributes:
        cell_ids: Finished cells, one a seed.
        mlflow_run_ids: Their runs, as far as they have one.
        num_planned: Cells that there should be.
        budget: Mean over the cells of what training spent, with the first stage's mean where there
            is one; empty for the base.
        estimates: At the last step, by evaluator.
        comparisons: With the baseline at its last step, by evaluator.
        holes: Why cells or numbers are missing.
    """

    method: str
    cell_ids: tuple[str, ...]
    mlflow_run_ids: tuple[str, ...]
    num_planned: int
    budget: Mapping[str, float]
    estimates: Mapping[str, Estimate]
    comparisons: Mapping[str, Comparison]
    holes: tuple[Hole, ...]


@dataclass(frozen=True, kw_only=True)
class TaskTable:
    """All methods of one task.

    Attributes:
        final_metric: Evaluator that decides; empty where no cell is finished that says so.
        metrics: Evaluators in the order of columns: final, other learned ones, oracles.
        facts: About each of them.
        rows: Methods, the base first.
        suites: Prompt suite by evaluator.
        fingerprints: Of the protocol, by evaluator.
        baseline: Method that differences are taken to.
        targets: What is decided, and what was said beforehand about it.
    """

    task: str
    final_metric: str
    metrics: tuple[str, ...]
    facts: Mapping[str, MetricFacts]
    rows: tuple[MethodRow, ...]
    suites: Mapping[str, str]
    fingerprints: Mapping[str, str]
    baseline: str
    targets: Targets
    titles: Titles

    def title(self, method: str) -> str:
        """A method's name for people."""
        return method_title(method, self.titles)

    def notes(self) -> list[str]:
        """What a reader must know to read the numbers right."""
        notes = []
        intervals = [
            estimate.interval
            for row in self.rows
            if row.method != BASE
            for estimate in row.estimates.values()
            if estimate.interval is not None
        ]
        if intervals:
            notes.append(self._about_intervals(intervals))
        notes += [*self.about_family(), *self._about_shared_seeds()]
        steps = {row.budget.get("optimizer_steps") for row in self.rows if row.budget}
        # At unlike steps the last rows compare budgets as much as methods.
        if len(steps) > 1:
            notes.append("The methods took different numbers of optimizer steps.")
        trained = {row.method for row in self.rows if row.cell_ids}
        notes += [
            f"The cost of {self.title(method)} leaves out its first stage, which is not here."
            for method in ordered_methods(trained)
            if first_stage(method) and first_stage(method) not in trained
        ]
        shown = (one for row in self.rows for one in row.estimates.values() if one.interval)
        if any(one.num_unscored for one in shown):
            notes.append("* leaves out images that could not be scored.")
        return notes

    def _about_intervals(self, intervals: Sequence[Interval]) -> str:
        prompts = _span([interval.num_prompts for interval in intervals])
        counts = [interval.num_seeds for interval in intervals]
        # Intervals of one seed covered 28 to 82 % in simulations where seeds dominate, and more
        # prompts made it worse; a reader must know which they are.
        seeds = "; with one training seed they leave out what another seed would change"
        if max(counts) > 1:
            seeds = f" and {_span(counts)} training seeds"
            if min(counts) == 1:
                seeds += "; those of one seed leave out what another seed would change"
        baseline = self.title(self.baseline)
        paired = f"Differences to {baseline} are paired by prompt, image and seed."
        if not any(row.comparisons for row in self.rows):
            paired = f"No difference is here: those to {baseline} need it and another method."
        return f"95 % intervals over {prompts} prompts{seeds}. {paired}"

    def _about_shared_seeds(self) -> list[str]:
        """Whose difference is not that of the two values, since not all seeds have both."""
        num_seeds = {row.method: len(row.cell_ids) for row in self.rows if row.method != BASE}
        titles: dict[tuple[int, ...], list[str]] = {}
        for row in self.rows:
            one = row.comparisons.get(self.final_metric)
            pair = (row.method, self.baseline)
            if one and any(len(one.seeds) < num_seeds.get(name, 0) for name in pair):
                titles.setdefault(one.seeds, []).append(self.title(row.method))
        return [
            f"The difference of {', '.join(names)} to {self.title(self.baseline)} is over the "
            f"training seeds that both have, {', '.join(map(str, seeds))}; the values shown are "
            "over all seeds of each."
            for seeds, names in titles.items()
        ]

    @property
    def family(self) -> list[Comparison]:
        """The comparisons that this table decides: of the deciding metric, by method."""
        rows = [row for row in self.rows if self.final_metric in row.comparisons]
        comparisons = [row.comparisons[self.final_metric] for row in rows]
        return [one for one in comparisons if one.verdict is not Verdict.EXPLORATORY]

    def about_family(self) -> list[str]:
        """What is decided, how, and what is not."""
        if not self.family:
            return []
        names = ", ".join(self.title(one.method) for one in self.family)
        title, margin = self.facts[self.final_metric].title, self.targets.margin
        notes = [
            f"Decided: {title} of {names} against {self.title(self.baseline)}. "
            f"{how_decided(self.family[0].family_size)}"
        ]
        if margin is not None:
            notes.append(margin_note(margin, self.family[0].family_size))
        goals = [one for one in self.family if one.is_open and one.goal is not None]
        if goals and self.targets.detect is None:
            notes.append(
                "Differences to be decided are the published ones (results/reference); detect= "
                "names others."
            )
        if len(self.metrics) > 1:
            notes.append(
                "All other metrics are exploratory: their intervals are not corrected for how many "
                "they are, and they decide nothing."
            )
        notes += seed_notes({one.difference.num_seeds for one in self.family})
        return notes + list(dict.fromkeys(problem_note(one) for one in self.family if one.problem))

    def gaps(self) -> list[str]:
        """What is missing, a line each; empty when the table is whole."""
        gaps = [hole.describe() for row in self.rows for hole in row.holes]
        for row in self.rows:
            for evaluator, one in row.estimates.items():
                where = f"{self.title(row.method)}, {self.facts[evaluator].title}"
                if one.num_unscored:
                    reasons = "; ".join(one.reasons)
                    gaps.append(f"{where}: {one.num_unscored} images unscored ({reasons})")
                if one.problem is not None:
                    gaps.append(f"{where}: {one.problem}")
        return gaps

    def findings(self) -> list[str]:
        """The deciding metric's comparisons in words."""
        return [finding(one, self.titles) for one in self.family if one.method != BASE]


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


_RULE = (
    "Better or worse means p < 0.05, where p is the larger one of a permutation test over prompts "
    "and of the test behind the interval, which takes prompts and training seeds as samples"
)
#: To be followed by what the correction is for.
HOW_DECIDED = f"{_RULE}, after Holm's correction"


def how_decided(count: int) -> str:
    """The rule of verdicts, for a family of so many comparisons."""
    return f"{HOW_DECIDED} for {count} comparisons." if count > 1 else f"{_RULE}."


def margin_note(margin: float, count: int, title: str = "") -> str:
    """What equivalent means; with the metric's ``title`` where others are decided, too."""
    where = title and f" in {title}"
    return (
        f"Equivalent{where} means that two one-sided tests put the difference within {margin:g} of "
        f"0, p < 0.05{_after_holm(count)}; one comparison alone has that where its 90 % interval "
        "lies within."
    )


def _after_holm(count: int) -> str:
    return f" after Holm's correction for {count} comparisons" if count > 1 else ""


def seed_notes(counts: Collection[int]) -> list[str]:
    """What verdicts of so few training seeds say."""
    notes = []
    if 1 in counts:
        notes.append(
            "With one training seed a verdict is about this checkpoint, not about the method: "
            "where seeds matter, another one can turn it round."
        )
    if 2 in counts:
        notes.append(
            "Two training seeds have one degree of freedom: verdicts keep their error rate, and "
            "are rare."
        )
    return notes


def problem_note(comparison: Comparison) -> str:
    """Why a comparison has no verdict."""
    return f"Too few prompts for a verdict: {comparison.problem}."


def p_text(p_value: float) -> str:
    """A p-value as ``= 0.012`` or ``< 0.001``."""
    if p_value < 0.001:
        return "< 0.001"
    # "Better, p = 0.050" would go against the rule: as many digits as tell it from 0.05.
    texts = (f"{p_value:.{digits}f}" for digits in range(3, 10))
    return "= " + next((text for text in texts if float(text) != ALPHA), f"{p_value:.3f}")


def finding(comparison: Comparison, titles: Titles = METHOD_TITLES) -> str:
    """A comparison in one sentence, with what would decide it where it is open."""
    names = [method_title(name, titles) for name in (comparison.method, comparison.baseline)]
    text = (
        f"{' against '.join(names)}, {comparison.facts.title}: {comparison.verdict}, "
        f"{difference_text(comparison)}"
    )
    if comparison.problem:
        return f"{text}; {comparison.problem}."
    # Only an open question needs to be told what would close it.
    if not comparison.is_open or comparison.detectable is None:
        return f"{text}."
    least = f"{comparison.detectable:.{comparison.facts.decimals}f}"
    low, high = comparison.facts.value_range
    # So it is with two seeds that differ.
    is_blind = comparison.detectable > high - low
    seen = f"nothing ({least} is more than it can be)" if is_blind else f"{least} or more"
    return f"{text}; this design sees {seen}{remedy(comparison)}."


def difference_text(comparison: Comparison) -> str:
    """A difference with its interval and p-value."""
    digits, difference = comparison.facts.decimals, comparison.difference
    return (
        f"{difference.estimate:+.{digits}f} "
        f"[{difference.low:+.{digits}f}, {difference.high:+.{digits}f}], "
        f"p {p_text(comparison.shown_p_value)}"
    )


def remedy(comparison: Comparison) -> str:
    """What would decide a difference that should be seen; empty where nothing says which."""
    if comparison.goal is None:
        return ""
    goal = f"{comparison.goal:.{comparison.facts.decimals}f}"
    if comparison.required is None:
        return f", and with it a difference of {goal}"
    ways = [
        f"{count:,} {what}"
        for what, count in (
            ("images a prompt", comparison.required.images),
            ("prompts", comparison.required.prompts),
            ("seeds", comparison.required.seeds),
        )
        if count is not None
    ]
    if not ways:
        return f"; up to {MOST:,} {_levers(comparison)} would not decide a difference of {goal}"
    return f"; about {' or '.join(ways)} would decide a difference of {goal}"


def _levers(comparison: Comparison) -> str:
    """Of what more was tried to decide a difference."""
    known = comparison.components
    # Of one image a prompt, or one seed, nothing says what more of them would change.
    images = [] if known is None or known.image is None else ["images a prompt"]
    seeds = [] if known is None or known.seed is None else ["seeds"]
    levers = [*images, "prompts", *seeds]
    return " or ".join([", ".join(levers[:-1]), levers[-1] + " alone"]) if levers[1:] else levers[0]


#: A task and its deciding metric become what was said beforehand about them.
StateTargets = Callable[[str, MetricFacts], Targets]


def build_tables(
    cells: Sequence[Cell],
    panels: Panels,
    holes: Sequence[Hole],
    *,
    baseline: str,
    state: StateTargets = lambda _task, facts: Targets(metric=facts.name),
) -> list[TaskTable]:
    """One table a task, by name, of finished cells and all that is missing.

    Without metrics where no cell of the task is finished.
    """
    tasks = sorted(({cell.task for cell in cells} | {hole.task for hole in holes}) - {BASE})
    return [_task_table(task, cells, panels, holes, baseline, state) for task in tasks]


def _task_table(
    task: str,
    cells: Sequence[Cell],
    panels: Panels,
    holes: Sequence[Hole],
    baseline: str,
    state: StateTargets,
) -> TaskTable:
    # Every task starts from the base, whose cell belongs to none.
    members = [cell for cell in cells if cell.task == task or cell.is_base]
    missing = [hole for hole in holes if hole.task == task or hole.method == BASE]
    final_metric = next((cell.final_metric for cell in members if cell.final_metric), "")
    facts = {name: panel.facts for (of, name), panel in panels.items() if of == task}
    own = {name: panels[task, name] for name in ordered_metrics(facts, final_metric)}
    methods = ordered_methods({cell.method for cell in members} | {hole.method for hole in missing})
    targets = state(task, facts[final_metric]) if final_metric in facts else Targets()
    comparisons = final_comparisons(own, methods, baseline, targets)
    rows = []
    for method in methods:
        done = [cell for cell in members if cell.method == method]
        # The base has holes of other tasks' metrics too.
        gaps = [h for h in missing if h.method == method and h.evaluator in (None, *own)]
        rows.append(
            MethodRow(
                method=method,
                cell_ids=tuple(cell.cell_id for cell in done),
                mlflow_run_ids=tuple(cell.mlflow_run_id for cell in done if cell.mlflow_run_id),
                num_planned=len(done) + sum(hole.evaluator is None for hole in gaps),
                budget=_mean_budget(method, members),
                estimates=final_estimates(own, method),
                comparisons={name: one for (of, name), one in comparisons.items() if of == method},
                holes=tuple(dict.fromkeys(gaps)),
            )
        )
    return TaskTable(
        task=task,
        final_metric=final_metric,
        metrics=tuple(own),
        facts=facts,
        rows=tuple(rows),
        suites={name: panel.suite for name, panel in own.items()},
        fingerprints={name: panel.fingerprint for name, panel in own.items()},
        baseline=baseline,
        targets=targets,
        titles=titles_of(members),
    )


def _mean_budget(method: str, cells: Sequence[Cell]) -> dict[str, float]:
    """What training spent, first stages included, averaged over seeds; empty without training."""
    own = [cell for cell in cells if cell.method == method]
    if not own or method == BASE:
        return {}
    # A mean over some of the seeds would pass for one over all.
    names = [name for name in BUDGET_COLUMNS if all(name in cell.budget for cell in own)]
    budget = {name: sum(cell.budget[name] for cell in own) / len(own) for name in names}
    # Who goes on from a first stage has paid for it.
    before = _mean_budget(first_stage(method), cells)
    if not before:
        return budget
    return {name: before[name] + spent for name, spent in budget.items() if name in before}
