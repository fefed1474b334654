"""What a grid would take: each cell's state, time, disk, and what would stop it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

from rich import box
from rich.table import Table

from soarbench.cli.base_weights import to_get_weights
from soarbench.cli.disk import space_line
from soarbench.config.run import RatesConfig
from soarbench.config.stages import stages
from soarbench.config.suites import missing_prompts
from soarbench.grid import addresses
from soarbench.grid.cell import CellConfig
from soarbench.grid.expand import Grid
from soarbench.jobs.base import Job, SuiteJob
from soarbench.jobs.graph import all_jobs, diagnostic_keys, waiting_on
from soarbench.jobs.log import Log
from soarbench.jobs.prepare import START
from soarbench.jobs.train import Train
from soarbench.launchers.run_grid import estimates
from soarbench.models.base import ModelConfig
from soarbench.store.artefact import Store

MISSING_DATA = (
    "there is nothing to train on: give data.path=FILE (data=jsonl), or data=datasets or "
    "data=webdataset with data.path=DIR"
)


def job_list(grid: Grid) -> list[dict[str, object]]:
    """Every job as plain values, in the order of work."""
    jobs, rates = all_jobs(grid), grid.settings.budget.rates
    return [
        {
            "kind": job.kind,
            "address": job.address,
            "cell": addresses.cell_id(job.cell),
            "state": job.state(grid.store),
            "waits_for": waiting_on(job, jobs),
            "seconds": round(job.seconds(grid.store, rates), 1),
        }
        for job in jobs
    ]


def dry_table(grid: Grid) -> Table:
    """The cells, what is left of each, and how long that takes."""
    rates = grid.settings.budget.rates
    title = f"grid {grid.settings.grid.name}, budget {grid.settings.budget.name}"
    # Without borders the longest ids stay in one piece on 80 columns.
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for head in ("cell", "steps", "state"):
        table.add_column(head, overflow="fold")
    table.add_column("estimate", justify="right")
    jobs = all_jobs(grid)
    pending = [job for job in jobs if not job.is_done(grid.store)]
    seconds = estimates(grid, pending)
    total = 0.0
    probing = diagnostic_keys(jobs, grid.cells)
    # Once a job: an id takes a millisecond, and a grid has a thousand jobs.
    own_jobs = [job for job in pending if job.key not in probing]
    jobs_of = defaultdict[str, list[Job]](list)
    for job in own_jobs:
        jobs_of[addresses.cell_id(job.cell)].append(job)
    for cell in grid.cells:
        cell_id = addresses.cell_id(cell)
        own = jobs_of[cell_id]
        steps = str(cell.training.steps) if cell.training is not None else "-"
        cost = sum(seconds[job.key] for job in own)
        total += cost
        table.add_row(cell_id, steps, _state(own, grid), _duration(cost))
    # Several cells may share a measurement, so that it has a line of its own.
    diagnosing = sum(seconds[job.key] for job in pending if job.key in probing)
    table.add_section()
    # Nothing is loaded where nothing is left to do.
    start = seconds[START] if total or diagnosing else 0.0
    table.add_row("loading and curating", "", "", _duration(start))
    table.add_row("diagnostics", "", "", _duration(diagnosing))
    table.add_row("all", "", "", _duration(total + diagnosing + start))
    notes = [rates_line(rates, grid.settings.model), *unrated_lines(grid.cells, rates)]
    notes.append(space_line(grid, pending))
    extra = sum(seconds[job.key] for job in pending if _is_at_cost(job))
    notes += equal_cost_lines(grid.cells, _duration(extra))
    notes += repeated_lines(pending, grid.store)
    notes += [f"to run it, {missing_prompts(suite)}" for suite in grid.without_prompts]
    notes += [MISSING_DATA] if grid.without_data else []
    remedy = to_get_weights(grid.settings.model)
    notes += [] if remedy is None else [f"the weights are not here; {remedy}"]
    table.caption = "\n".join(notes)
    return table


def rates_line(rates: RatesConfig, model: ModelConfig) -> str:
    """Where an estimate's speeds are from; those of another model are not this one's."""
    line = f"estimates from rates measured on {rates.machine}"
    if rates.model in (None, model.name):
        return line
    return f"{line}; they are of {rates.model}: plan in place of run counts updates of {model.name}"


def unrated_lines(cells: Sequence[CellConfig], rates: RatesConfig) -> list[str]:
    """Methods without a speed, whose trainings an estimate leaves out."""
    trained = {stages(cell.method_name)[-1] for cell in cells if cell.training is not None}
    return [
        f"trainings of {name} count no seconds: set budget.rates.seconds_per_step.{name}=SECONDS"
        for name in sorted(trained - {key.partition("/")[0] for key in rates.seconds_per_step})
    ]


def _is_at_cost(job: Job) -> bool:
    return isinstance(job, SuiteJob) and job.step not in job.cell.own_steps


def equal_cost_lines(cells: Sequence[CellConfig], duration: str) -> list[str]:
    """Snapshots beside the evenly spaced ones, where other methods' costs are met."""
    tasks: dict[tuple[str, str], dict[str, None]] = {}
    for cell in cells:
        steps = {n: cost for n, cost in cell.cost_steps.items() if n not in cell.own_steps}
        texts = [
            f"step {step:,} ({cell.cost_at(step):,.0f} of {cost:,.0f})"
            for step, cost in sorted(steps.items())
        ]
        if texts:
            tasks.setdefault((cell.method_name, ", ".join(texts)), {})[cell.task_name] = None
    lines = [f"{method} ({', '.join(of)}) at {text}" for (method, text), of in tasks.items()]
    if not lines:
        return []
    return [f"also at equal cost, in forward equivalents ({duration} of all):", *lines]


def repeated_lines(jobs: Sequence[Job], store: Store) -> list[str]:
    """Trainings that are over, and are repeated for a snapshot that nobody kept."""
    trainings = [job for job in jobs if isinstance(job, Train)]
    lacking = ((job.cell.label, job.lacking(store)) for job in trainings)
    return [
        f"{label} is trained again: it is over, and has no snapshot of step "
        f"{', '.join(map(str, steps))}"
        for label, steps in lacking
        if steps
    ]


def _state(pending: Sequence[Job], grid: Grid) -> str:
    """What is left of a cell, in words."""
    states = {job.state(grid.store) for job in pending}
    if not states:
        return "finished"
    if "failed" in states:
        return "failed, to do again"
    kinds = list(dict.fromkeys(job.kind for job in pending))
    if all(isinstance(job, Log) and job.is_finished(grid.store) for job in pending):
        return "finished, to deliver"
    if states == {"to do"} and len(kinds) > 1 and kinds[0] in ("train", "draw"):
        return "to do"
    return f"to {', '.join(kinds)}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
