"""``python -m soarbench plan``: memory and time of training, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from soarbench.planning.demand import PlanOptions, Request, gpus, read_request
from soarbench.planning.memory_and_time import GB, Demand, gigabytes
from soarbench.planning.planner import MethodPlan, Planner, choices, refuse, require_phases


def plan(options: PlanOptions, words: Sequence[str], *, console: Console) -> int:
    """Print what every method needs; ``UserError`` where one does not fit, with what would."""
    request = read_request(options, words)
    planner = Planner()
    plans, demands = {}, {}
    for method, demand in request.demands.items():
        with console.status(f"counting {method}"):
            demands[method] = planner.chosen(demand, request.gpu.memory_gb)
            plans[method] = planner.plan(demands[method], request.gpu, request.utilisation)
    console.print(plan_table(request, plans, demands))
    # Refused after the table, which shows by how much.
    for method, plan in plans.items():
        if gigabytes(plan.memory) > request.gpu.memory_gb:
            known = sorted(gpus().items(), key=lambda item: item[1].memory_gb)
            larger = [name for name, gpu in known if gpu.memory_gb >= plan.peak_gb]
            refuse(
                planner, method, demands[method],
                name=request.gpu_name,
                memory_gb=request.gpu.memory_gb,
                others=[f"gpu={name}" for name in larger[:1]],
            )  # fmt: skip
        require_phases(method, plan.phases, name=request.gpu_name, memory_gb=request.gpu.memory_gb)
    return 0


def plan_table(
    request: Request, plans: Mapping[str, MethodPlan], demands: Mapping[str, Demand]
) -> Table:
    """Memory by what it is, and time, one column a method."""
    first = next(iter(request.demands.values()))
    table = Table(
        title=f"{first.model.name} at {first.model.resolution} px on {first.num_processes} x "
        f"{request.gpu_name}, grid={request.grid} task={request.task}"
    )
    table.add_column("on each GPU")
    for method in plans:
        table.add_column(method, justify="right")

    def row(title: str, cell: Callable[[MethodPlan], str]) -> None:
        table.add_row(title, *map(cell, plans.values()))

    row("parameters, million", lambda p: f"{p.total / 1e6:,.1f}")
    row("trained, million", lambda p: f"{p.trained / 1e6:,.1f}")
    table.add_section()
    for name in dict.fromkeys(name for p in plans.values() for name in p.memory):
        sizes = [p.memory.get(name) for p in plans.values()]
        texts = ["-" if size is None else f"{size / GB:.2f}" for size in sizes]
        table.add_row(f"{name}, GB", *texts)
    row("training, GB", lambda p: f"{gigabytes(p.memory):.2f}")
    table.add_section()
    for name in dict.fromkeys(name for p in plans.values() for name in p.phases):
        table.add_row(f"{name}, GB", *(f"{p.phases[name] / GB:.2f}" for p in plans.values()))
    row("peak, GB", lambda p: f"{p.peak_gb:.1f}")
    table.add_section()
    opened = {name: choices(request.demands[name], demands[name]) for name in plans}
    for key in dict.fromkeys(key for chosen in opened.values() for key in chosen):
        table.add_row(
            f"{key} by memory", *(str(chosen.get(key, "-")) for chosen in opened.values())
        )
    table.add_section()
    row("forward equivalents an update", lambda p: f"{p.time.forward_equivalents:,.0f}")
    row("seconds an update", lambda p: f"{p.time.seconds:.2f}")
    totals = [p.time.seconds * request.steps[name] for name, p in plans.items()]
    table.add_row("a run of", *(f"{request.steps[name]:,} updates" for name in plans))
    table.add_row("takes", *map(_duration, totals))
    table.caption = (
        f"{request.gpu.memory_gb:.0f} GB a GPU; times at {request.utilisation:.0%} of its peak, "
        "without communication, sampling and rewards (utilisation=SHARE changes that)"
    )
    return table


def _duration(seconds: float) -> str:
    # Beyond this Python knows no duration.
    return str(timedelta(seconds=round(seconds))) if seconds < 1e13 else "over 300,000 years"
