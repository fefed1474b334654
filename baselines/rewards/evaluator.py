"""Any evaluator can be a reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from baselines.rewards.base import RewardError
from evaluators.base import Evaluator, Sample
from evaluators.scoring import checked_scores

if TYPE_CHECKING:
    from PIL import Image


class EvaluatorReward:
    """What an evaluator's scores are worth to it: the value, turned over where lower is better.

    GenEval's is its strict score with partial credit (``Evaluator.reward``).

    Training on an evaluator that does not work is worse than not training, so its canaries are
    scored first (an ``EvaluatorError`` if they fail) and an unscored image stops the run.

    Args:
        evaluator: A loaded one.
        name: For messages; None: the evaluator's.
    """

    def __init__(self, evaluator: Evaluator, name: str | None = None) -> None:
        evaluator.check_canaries()
        self.evaluator = evaluator
        self.name = name or evaluator.name

    def check(self, prompt: str, columns: Mapping[str, object]) -> None:
        """Refuse a prompt that the evaluator cannot judge images of.

        Args:
            prompt: What is asked for.
            columns: See ``__call__``; the entries of one image.

        Raises:
            ValueError: Says what is wrong.
        """
        self.evaluator.check(prompt, _metadata(columns))

    def __call__(
        self, *, prompts: Sequence[str], images: Sequence[Image.Image], **columns: Sequence[object]
    ) -> list[float]:
        """Score images.

        Args:
            prompts: One an image.
            images: RGB.
            **columns: Become the samples' metadata; the entries of a column of mappings called
                ``metadata`` (GenEval's) are merged into it.

        Returns:
            Rewards; one an image.

        Raises:
            RewardError: An image that the evaluator could not score.
        """
        samples = [
            Sample(
                sample_id=f"rollout/{index:05d}",
                prompt_id=prompt,
                prompt=prompt,
                image=image,
                metadata=_metadata({name: c[index] for name, c in columns.items()}),
            )
            for index, (prompt, image) in enumerate(zip(prompts, images, strict=True))
        ]
        scores = checked_scores(self.evaluator, samples)
        for index, score in enumerate(scores):
            if score.reason is not None:
                raise RewardError(
                    f"reward {self.name!r} could not score image {index} of {len(images)}, prompt "
                    f"{prompts[index]!r}: {score.reason}; use prompts that it can score"
                )
        return [self.evaluator.reward(score) for score in scores]


def _metadata(columns: Mapping[str, object]) -> dict[str, object]:
    """A sample's metadata of one image's columns."""
    row = dict(columns)
    nested = row.pop("metadata", {})
    if not isinstance(nested, Mapping):
        return {**row, "metadata": nested}
    return {**row, **nested}
