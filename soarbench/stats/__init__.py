"""How sure are we? Intervals, paired tests and power: pure functions of arrays.

Everything works on ``ClusteredScores``, a table of scores by training seed and prompt. Numbers of
one method give its mean; differences of two methods on the same images give the comparison.
"""

from soarbench.stats.bootstrap import Interval, mean_interval, probability_of_improvement
from soarbench.stats.clusters import ClusteredScores, cluster, cluster_pairs
from soarbench.stats.power import (
    VarianceComponents,
    minimum_detectable_difference,
    required_prompts,
    required_seeds,
    variance_components,
)
from soarbench.stats.significance import (
    McNemar,
    Verdict,
    holm,
    mcnemar,
    paired_permutation_test,
    verdict,
)
from soarbench.stats.thresholds import first_crossing

__all__ = [
    "ClusteredScores",
    "Interval",
    "McNemar",
    "VarianceComponents",
    "Verdict",
    "cluster",
    "cluster_pairs",
    "first_crossing",
    "holm",
    "mcnemar",
    "mean_interval",
    "minimum_detectable_difference",
    "paired_permutation_test",
    "probability_of_improvement",
    "required_prompts",
    "required_seeds",
    "variance_components",
    "verdict",
]
