"""The one call by which anything asks a judge: a run, a folder, a training set, a reward."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.base import Evaluator, Sample, Score


def checked_scores(evaluator: Evaluator, samples: Sequence[Sample]) -> list[Score]:
    """One score a sample, in order; ``RuntimeError`` where the judge breaks that promise."""
    # A judge that drops or sorts images would shift every number after, and none would look wrong.
    scores = evaluator.score(samples)
    if [score.sample_id for score in scores] != [sample.sample_id for sample in samples]:
        raise RuntimeError(
            f"evaluator {evaluator.name!r} gave {len(scores)} scores for {len(samples)} images, "
            "or gave them out of order"
        )
    return scores
