"""How sure are we? Intervals, paired tests and power: pure functions of arrays."""

from soarbench.stats.intervals import Interval, mean_interval
from soarbench.stats.significance import Verdict

__all__ = ["Interval", "Verdict", "mean_interval"]
