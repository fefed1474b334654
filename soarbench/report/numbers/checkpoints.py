"""Which step of a curve is marked: by a rule that was fixed before anything was run."""

from __future__ import annotations

from soarbench.grid.checkpoint_rule import LAST, judge_of
from soarbench.report.numbers.estimates import estimate
from soarbench.report.numbers.panels import Panel
from soarbench.report.numbers.tables import Panels


def marked_steps(rule: str, panels: Panels, task: str) -> dict[str, int]:
    """The step of each method that a rule marks; without methods whose scores it does not find.

    ``best:NAME`` is the step that evaluator NAME likes best on average over prompts and seeds.
    """
    own = [panel for (of, _), panel in panels.items() if of == task]
    if rule == LAST:
        steps = [(method, panel.steps(method)[-1]) for panel in own for method in panel.methods]
        # Sorted, so that the last one of a method is its highest.
        return dict(sorted(steps))
    judge = judge_of(rule)
    return {
        method: _best_step(panel, method)
        for panel in own
        if panel.evaluator == judge
        for method in panel.methods
    }


def _best_step(panel: Panel, method: str) -> int:
    means = {}
    for step in panel.steps(method):
        interval = estimate(panel, method, step).interval
        means[step] = float("-inf") if interval is None else panel.facts.sign * interval.estimate
    # Of two alike the earlier one, which cost less; ``max`` takes the first, and steps ascend.
    return max(means, key=means.__getitem__)
