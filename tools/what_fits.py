"""The table of ``docs/howto/models.md`` that says what fits where, from what ``plan`` counts."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from soarbench.planning.demand import PlanOptions, Request, gpus, read_request
from soarbench.planning.memory_and_time import UTILISATION, Gpu
from soarbench.planning.planner import Planner

#: Settings of each row, and pixels.
MODELS = (
    ("sana_600m", 512), ("sana_600m_1024", 1024), ("sd35_medium", 512), ("sd35_medium", 1024),
    ("flux2_klein_4b", 512), ("flux2_klein_4b", 1024), ("z_image", 512), ("z_image", 1024),
    ("qwen_image", 512), ("qwen_image", 1024),
)  # fmt: skip
CARDS = ("rtx4090-24gb", "l40s-48gb", "h100-80gb")


def main() -> int:
    """Print the table, in Markdown."""
    lines = [
        "| `model=` | px | method | " + " | ".join(f"`gpu={card}`" for card in CARDS) + " |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines))  # noqa: T201 (what it is for)
    for model, pixels in MODELS:
        for line in rows(model, pixels):
            print(line, flush=True)  # noqa: T201
    return 0


def rows(model: str, pixels: int) -> Iterator[str]:
    """A line for each method."""
    words = [f"model={model}", f"model.resolution={pixels}"]
    request, planner = read_request(PlanOptions(), words), Planner()
    for method in request.demands:
        cells = [cell(planner, request, method, gpus()[card]) for card in CARDS]
        yield f"| `{model}` | {pixels} | `{method}` | {' | '.join(cells)} |"


def cell(planner: Planner, request: Request, method: str, gpu: Gpu) -> str:
    """Memory at the peak and time of a run; a dash where the card has less."""
    demand = planner.chosen(request.demands[method], gpu.memory_gb)
    plan = planner.plan(demand, gpu, UTILISATION)
    if plan.peak_gb > gpu.memory_gb:
        return "-"
    hours = plan.time.seconds * request.steps[method] / 3600
    time = f"{hours:,.0f} h" if hours >= 1 else "<1 h"
    return f"{plan.peak_gb:.1f} GB, {time}"


if __name__ == "__main__":
    sys.exit(main())
