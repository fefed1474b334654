"""What ``report`` takes beside the settings of a run: axes of the curves, and thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from soarbench.common.errors import ConfigError
from soarbench.common.strict import did_you_mean

AXES = ("step", "images_seen", "forward_equivalents", "reward_calls", "seconds")
DEFAULT_AXES = ("step", "forward_equivalents")


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """How a report is drawn.

    Attributes:
        axes: What the curves are drawn over, a figure each.
        thresholds: Value to be reached, by metric; the baseline's last one where there is none.
    """

    axes: tuple[str, ...] = DEFAULT_AXES
    thresholds: Mapping[str, float] = field(default_factory=dict)


def read_options(words: Sequence[str]) -> tuple[ReportOptions, list[str]]:
    """Take ``x=`` and ``threshold=`` out of a command line.

    Args:
        words: ``x=seconds,images_seen``, ``threshold=aesthetic:6.8,clipscore:0.45`` and settings.

    Returns:
        The options, and the other words.

    Raises:
        ConfigError: An axis does not exist, or a threshold is no number.
    """
    axes: tuple[str, ...] = DEFAULT_AXES
    thresholds: dict[str, float] = {}
    settings = []
    for word in words:
        key, sign, value = word.partition("=")
        if sign and key == "x":
            # The figure over steps is the paper's, and pages and READMEs link it.
            axes = tuple(dict.fromkeys(("step", *(_axis(name) for name in _names(value)))))
        elif sign and key == "threshold":
            thresholds = dict(_threshold(part) for part in _names(value))
        else:
            settings.append(word)
    return ReportOptions(axes=axes, thresholds=thresholds), settings


def _names(value: str) -> list[str]:
    return [name.strip() for name in value.strip("[]{} ").split(",")]


def _axis(name: str) -> str:
    if name not in AXES:
        raise ConfigError(f"x={name!r}: {did_you_mean(name, AXES)}")
    return name


def _threshold(part: str) -> tuple[str, float]:
    metric, _, value = part.partition(":")
    try:
        return metric.strip(), float(value)
    except ValueError:
        raise ConfigError(
            f"threshold={part!r}: write METRIC:VALUE, e.g. threshold=aesthetic:6.8"
        ) from None
