"""What a report must know about a judge's number, as the judge itself said when it was stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from soarbench.common.errors import StoreError
from soarbench.common.strict import build

#: Of a protocol: the facts, which are no part of its fingerprint.
JUDGE = "judge"


@dataclass(frozen=True, kw_only=True)
class MetricFacts:
    """Facts about one judge's number.

    Attributes:
        name: Of the judge, as configured.
        decimals: Digits after the point; one more than the differences that matter.
        value_range: Least and largest value.
        higher_is_better: Which way is up.
        is_macro_mean: Whether the number is the mean of the means of the prompts' tasks (the
            ``tag`` in a score's details), and not the mean over images.
        is_oracle: Whether it knows the truth, as only the laboratory can.
        oracle_of: Names of the learned judges whose truth an oracle knows.
    """

    name: str
    title: str
    unit: str
    decimals: int
    value_range: tuple[float, float]
    higher_is_better: bool
    is_macro_mean: bool
    is_oracle: bool
    oracle_of: tuple[str, ...] = ()

    @property
    def sign(self) -> float:
        """1 where more is better, -1 where less is."""
        return 1.0 if self.higher_is_better else -1.0


def metric_facts(name: str, protocol: Mapping[str, object], source: str) -> MetricFacts:
    """The facts about a judge's number in the protocol of a ``source``; ``StoreError`` without."""
    stored = protocol.get(JUDGE)
    # "Higher is better" is no default: it turned the verdicts of a lower-is-better judge round.
    if not isinstance(stored, Mapping):
        raise StoreError(
            f"{source} does not say what {name!r} measures (which way is better, in which unit): "
            "another version of soarbench judged it; judge it again"
        )
    # Judges may say more than reports need, such as the units of further numbers.
    names = {entry.name for entry in fields(MetricFacts)}
    values = {str(key): value for key, value in stored.items() if key in names}
    return build(MetricFacts, {**values, "name": name}, f"{source}: {name}")
