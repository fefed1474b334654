"""Which rows of a set are trained on: pure functions of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def smallest_rank(scores: Mapping[str, Sequence[float]]) -> NDArray[np.float64]:
    """Each candidate's worst rank over the scores, 0 (worst) .. 1 (best). -> (N,)."""
    # Ranks, since scores of different judges have no common scale; the worst of them, so that no
    # score can buy itself free with another. Stably, so that equals rank alike everywhere.
    ranks = []
    for values in scores.values():
        order = np.argsort(np.argsort(values, kind="stable"), kind="stable")
        ranks.append(order / max(len(values) - 1, 1))
    return np.asarray(np.min(ranks, axis=0), dtype=np.float64)


def best_share(scores: Mapping[str, Sequence[float]], keep_fraction: float) -> list[int]:
    """Places of the share (0, 1] of highest smallest rank, ascending; at least one."""
    ranks = smallest_rank(scores)
    count = max(1, round(len(ranks) * keep_fraction))
    return sorted(int(place) for place in np.argsort(-ranks, kind="stable")[:count])


def best_share_of_groups(
    scores: Mapping[str, Sequence[float]], groups: Sequence[str], keep_fraction: float
) -> list[int]:
    """``best_share`` of each group by itself, ``groups`` naming each candidate's. Places in all."""
    kept = []
    for group in set(groups):
        places = [place for place, name in enumerate(groups) if name == group]
        part = {name: [values[place] for place in places] for name, values in scores.items()}
        kept += [places[place] for place in best_share(part, keep_fraction)]
    return sorted(kept)


def first_below(scores: Mapping[str, float], thresholds: Mapping[str, float]) -> str | None:
    """The first known score that is under its threshold."""
    for name, least in thresholds.items():
        # Not ``<``, by which a threshold of nan would keep everything.
        if name in scores and not scores[name] >= least:
            return name
    return None
