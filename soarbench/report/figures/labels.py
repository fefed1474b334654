"""Names of lines at their ends, where there are few enough of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

#: More names would make a column that is higher than the panel.
_MOST = 4
#: Least distance of two names, and the place of a name, in shares of the panel.
_APART, _PLACE = 0.09, 1.06


def can_label(axes: Sequence[Axes], names: Collection[str]) -> bool:
    """Whether the lines of those names are few and end in one column, in every panel."""
    ends = [{_end(line)[0] for line in _lines(ax, names)} for ax in axes]
    return len(names) <= _MOST and all(len(places) == 1 for places in ends)


def label_ends(ax: Axes, names: Collection[str]) -> None:
    """Write the names of a panel's lines right of their ends, in the same order."""
    low, high = ax.get_ylim()
    lines = sorted(_lines(ax, names), key=lambda line: _end(line)[1])
    heights = _apart([(_end(line)[1] - low) / (high - low) for line in lines])
    for line, height in zip(lines, heights, strict=True):
        # The name in black, which all readers can read, and the leader in the line's colour.
        leader = {"arrowstyle": "-", "color": line.get_color(), "linewidth": 0.8, "shrinkA": 1}
        ax.annotate(
            str(line.get_label()), _end(line), (_PLACE, height), textcoords="axes fraction",
            va="center", fontsize=7, annotation_clip=False, arrowprops=leader,
        )  # fmt: skip


def _lines(ax: Axes, names: Collection[str]) -> list[Line2D]:
    return [line for line in ax.lines if line.get_label() in names]


def _end(line: Line2D) -> tuple[float, float]:
    across, up = np.asarray(line.get_xydata())[-1]
    return float(across), float(up)


def _apart(heights: Sequence[float]) -> list[float]:
    """Ascending heights, moved so that no two are nearer than names are high."""
    moved: list[float] = []
    for height in heights:
        moved.append(max(height, moved[-1] + _APART) if moved else height)
    # Half of what the topmost was pushed up is taken back by all.
    shift = (moved[-1] - heights[-1]) / 2
    return [height - shift for height in moved]
