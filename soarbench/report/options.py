"""What ``report`` takes beside the settings of a run: axes of the curves, and thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from soarbench.config.keys import Options

Axis = Literal["step", "images_seen", "forward_equivalents", "reward_calls", "seconds"]


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """How a report is drawn.

    Attributes:
        x: What the curves are drawn over beside steps, a figure each.
        thresholds: Value to be reached, by metric; the baseline's last one where there is none.
    """

    renamed: ClassVar[Mapping[str, str]] = {"threshold": "thresholds.METRIC"}
    x: tuple[Axis, ...] = ("forward_equivalents",)
    thresholds: Mapping[str, float] = field(default_factory=dict)

    @property
    def axes(self) -> tuple[str, ...]:
        """Steps first, each once."""
        return tuple(dict.fromkeys(("step", *self.x)))
