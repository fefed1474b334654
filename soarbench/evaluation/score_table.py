"""A judge's numbers for people, each with its unit and scale."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.table import Table


def summary_table(name: str, summary: Mapping[str, object]) -> Table:
    """A judge's numbers, each with its unit and scale."""
    low, high = _numbers(summary["value_range"])
    units = summary["units"]
    assert isinstance(units, Mapping)
    own = with_scale(str(summary["unit"]), low, high)
    table = Table(title=f"{name}: {summary['num_images']} images, {summary['num_prompts']} prompts")
    for heading in ("measure", "value", "unit and scale"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    values = summary["numbers"]
    assert isinstance(values, dict)
    for key, value in values.items():
        if key == "unscored":
            table.add_row(key, f"{value:.0f}", "images without a score")
            continue
        unit = str(units.get(key, own))
        # A share in percent is read with one digit, any other number with four.
        factor, digits = (100, 1) if unit.startswith("%") else (1, 4)
        table.add_row(key, "-" if value is None else f"{factor * value:.{digits}f}", unit)
    return table


def with_scale(unit: str, low: float, high: float) -> str:
    """A unit and its range, unless it says that itself or has none."""
    scale = f"{low:g}..{high:g}"
    return unit if math.isinf(low) or math.isinf(high) or scale in unit else f"{unit}, {scale}"


def _numbers(values: object) -> tuple[float, float]:
    assert isinstance(values, (list, tuple))
    low, high = (float(value) for value in values)
    return low, high
