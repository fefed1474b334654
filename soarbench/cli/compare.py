"""``python -m soarbench compare A B``: is A better than B, by how much, how sure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from soarbench.common.errors import ConfigError, UserError
from soarbench.common.strict import did_you_mean
from soarbench.config.keys import Options
from soarbench.report.numbers.measured import Key, Measured, of_cell, of_scored
from soarbench.report.numbers.metrics import (
    BASE,
    method_title,
    metric_of,
    ordered_metrics,
    step_title,
)
from soarbench.report.numbers.pairs import Answer, Pair, answers, measured_pairs, panel_pair
from soarbench.report.numbers.panels import Panel, build_panels
from soarbench.report.numbers.protocols import refuse_unlike
from soarbench.report.numbers.tables import finding, p_text
from soarbench.report.text.tables import number_text
from soarbench.store.cells import Cell, read_cell, read_cells
from soarbench.store.grids import StoredGrid, own_settings, stored_grid


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    """What ``compare`` takes beside the settings of a run.

    Attributes:
        metric: The only one to be compared.
        step: Optimiser steps after which; None: at the end.
    """

    metric: str | None = None
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """The pairs that a command line means.

    Attributes:
        pairs: One a metric, the deciding one first.
        scope: Task and steps, in words.
    """

    pairs: Sequence[Pair]
    scope: str


def compare(
    first: str,
    second: str,
    options: CompareOptions,
    settings: Sequence[str],
    *,
    as_json: bool,
    console: Console,
) -> int:
    """Compare and print.

    Args:
        first: A method of the grid, a cell id, or scores that ``score`` wrote.
        second: Another of the same kind.
        options: Metric and step.
        settings: Of the run.
        as_json: Print JSON instead of text.
        console: Where it goes.

    Raises:
        UserError: One is not there, or they cannot be compared; says in which field they differ.
    """
    if first == second:
        raise UserError(f"{first} cannot be compared with itself; name two")
    found = _find(first, second, settings, options.step)
    pairs = [pair for pair in found.pairs if options.metric in (None, pair.evaluator)]
    if not pairs:
        hint = did_you_mean(str(options.metric), {pair.evaluator for pair in found.pairs})
        raise UserError(f"metric={options.metric!r} was not measured of both: {hint}")
    results = answers(pairs)
    if as_json:
        console.file.write(json.dumps(_plain(found, results), indent=1) + "\n")
    else:
        _show(found, results, console)
    return 0


def _find(first: str, second: str, settings: Sequence[str], step: int | None) -> Found:
    """Scores on disk, cells, or methods: what the two names are."""
    are_paths = [Path(name).expanduser().exists() for name in (first, second)]
    if all(are_paths):
        if settings or step is not None:
            wrong = (*settings, "step=")[0]
            raise ConfigError(f"{wrong}: two folders of scores take metric= alone")
        left, right = (of_scored(Path(name).expanduser()) for name in (first, second))
        return _found_measured((first, second), left, right, None, "")
    cells = [_cell(name, settings) for name in (first, second)]
    if cells[0] is not None and cells[1] is not None:
        left, right = (of_cell(cell, step) for cell in cells if cell is not None)
        scope = "" if step is None else f"after {step} steps"
        return _found_measured((first, second), left, right, cells[0].final_metric, scope)
    for name, is_path, cell in zip((first, second), are_paths, cells, strict=True):
        if (is_path or cell is not None) and (any(are_paths) or any(cells)):
            raise UserError(
                f"{name} is {'a folder of scores' if is_path else 'a cell'} and the other is not; "
                "name two methods, two cells or two folders of scores that exist"
            )
    return _found_methods(first, second, settings, step)


def _found_measured(
    names: tuple[str, str],
    first: Mapping[Key, Measured],
    second: Mapping[Key, Measured],
    final_metric: str | None,
    scope: str,
) -> Found:
    pairs = measured_pairs(names, first, second)
    order = ordered_metrics([pair.evaluator for pair in pairs], final_metric or "")
    return Found(pairs=sorted(pairs, key=lambda pair: order.index(pair.evaluator)), scope=scope)


def _cell(name: str, settings: Sequence[str]) -> Cell | None:
    """The cell of that id under ``output_dir``; None where there is none."""
    if "/" in name or name in ("", ".", ".."):
        return None
    root = Path(own_settings(settings).output_dir).expanduser()
    folders = sorted(root.glob(f"*/cells/{name}"))
    if not folders:
        return None
    return read_cell(folders[0])


def _found_methods(first: str, second: str, settings: Sequence[str], step: int | None) -> Found:
    """Two methods of a grid, over all seeds that they share."""
    stored = stored_grid(settings)
    cells, _ = read_cells(stored.folder, stored.cells)
    task = _task(cells, first, second, stored)
    chosen = [cell for cell in cells if cell.method in (first, second) or cell.is_base]
    chosen = [cell for cell in chosen if cell.task == task or cell.is_base]
    refuse_unlike(chosen)
    panels, _ = build_panels(chosen)
    final_metric = next((cell.final_metric for cell in chosen if cell.final_metric), None) or ""
    steps: dict[str, int] = {}
    pairs = []
    for name in ordered_metrics([evaluator for _, evaluator in panels], final_metric):
        panel = panels[task, name]
        if panel.steps(first) and panel.steps(second):
            ends = [(method, _step_of(panel, method, step)) for method in (first, second)]
            steps |= dict(ends)
            pairs.append(panel_pair(panel, ends[0], ends[1]))
    if not pairs:
        raise UserError(f"{first} and {second} have no whole scores in task {task}")
    told = " and ".join(
        f"{method_title(name)} ({step_title(name, at)})" for name, at in steps.items()
    )
    return Found(pairs=pairs, scope=f"task {task}, {told}")


def _task(cells: Sequence[Cell], first: str, second: str, stored: StoredGrid) -> str:
    """The one task in which both are finished."""
    for name in (first, second):
        methods = {cell.method for cell in cells}
        if name not in methods:
            raise UserError(
                f"{name} is no finished method of grid {stored.grid}, no cell id and no folder of "
                f"scores: {did_you_mean(name, methods)}"
            )
    trained = [name for name in (first, second) if name != BASE]
    of_method = [{cell.task for cell in cells if cell.method == name} for name in trained]
    tasks = sorted(set.intersection(*of_method))
    if len(tasks) != 1:
        told = ", ".join(f"task={name}" for name in tasks) or "none has both"
        raise UserError(f"{first} and {second} need one task: {told}")
    return tasks[0]


def _step_of(panel: Panel, method: str, step: int | None) -> int:
    steps = panel.steps(method)
    if step is None or method == BASE:
        return steps[-1]
    if step not in steps:
        told = ", ".join(str(one) for one in steps)
        raise UserError(f"step={step}: {method} was evaluated at {told}")
    return step


def _show(found: Found, results: Sequence[Answer], console: Console) -> None:
    names = [method_title(name) for name in found.pairs[0].names]
    console.print(f"A: {names[0]}\nB: {names[1]}", highlight=False, markup=False)
    if found.scope:
        console.print(found.scope, highlight=False, markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Metric")
    for head in ("A\nB", "A - B [95 %]", "p (Holm)", "P(A better)"):
        table.add_column(head, justify="right")
    for one in results:
        digits, comparison = metric_of(one.evaluator).decimals, one.comparison
        chance, _, ends = number_text(one.improvement, 2).partition(" ")
        table.add_row(
            f"{metric_of(one.evaluator).title}\n{comparison.verdict}",
            "\n".join(f"{value:.{digits}f}" for value in one.values),
            escape(number_text(comparison.difference, digits, sign="+")),
            p_text(comparison.adjusted_p_value).removeprefix("= "),
            f"{chance}\n{escape(ends)}",
        )
    console.print(table)
    for line in _lines(results):
        console.print(line, highlight=False, markup=False)


def _lines(results: Sequence[Answer]) -> list[str]:
    """The first metric's answer in words, and how to read the numbers."""
    first = results[0]
    comparison = first.comparison
    lines = [finding(comparison, first.evaluator)]
    if comparison.verdict.is_decided and comparison.detectable is not None:
        digits = metric_of(first.evaluator).decimals
        lines.append(f"This design sees {comparison.detectable:.{digits}f} or more.")
    for one in results:
        if one.mcnemar is not None:
            lines.append(_mcnemar_line(one))
        if one.num_unscored:
            lines.append(
                f"{metric_of(one.evaluator).title}: {one.num_unscored} images are left out, since "
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
        f"{seeds}. p: permutation test over prompts, Holm-corrected for {len(results)}."
    )
    return lines


def _mcnemar_line(one: Answer) -> str:
    assert one.mcnemar is not None
    caution = "" if one.num_images <= 1 else ", taking the images of a prompt as independent"
    p_value = p_text(one.mcnemar.p_value)
    return (
        f"{metric_of(one.evaluator).title}: A alone is right on {one.mcnemar.only_first} images, B "
        f"alone on {one.mcnemar.only_second}; McNemar's exact p {p_value}{caution}."
    )


def _plain(found: Found, results: Sequence[Answer]) -> dict[str, object]:
    first, second = found.pairs[0].names
    return {
        "first": first,
        "second": second,
        "scope": found.scope,
        "metrics": [_plain_answer(one) for one in results],
    }


def _plain_answer(one: Answer) -> dict[str, object]:
    comparison = one.comparison
    return {
        "metric": one.evaluator,
        "suite": one.suite,
        "first": one.values[0],
        "second": one.values[1],
        "difference": vars(comparison.difference),
        "verdict": str(comparison.verdict),
        "p_value": comparison.p_value,
        "adjusted_p_value": comparison.adjusted_p_value,
        "probability_of_improvement": vars(one.improvement),
        "mcnemar": None if one.mcnemar is None else vars(one.mcnemar),
        "detectable_difference": comparison.detectable,
        "required_prompts": comparison.required_prompts,
        "required_seeds": comparison.required_seeds,
        "seeds": list(comparison.seeds),
        "num_unscored": one.num_unscored,
    }
