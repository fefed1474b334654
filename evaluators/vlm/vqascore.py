"""VQAScore: how sure a vision-language model is that an image shows its prompt (2404.01291)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evaluators.base import Sample, Score
from evaluators.vlm.base import QuestionsConfig
from evaluators.vlm.questions import YES, Question


@dataclass(frozen=True, kw_only=True)
class VqaScoreConfig(QuestionsConfig):
    """P(yes) of one question.

    Attributes:
        question: What is asked; ``{prompt}`` is the image's. The default is GenEval 2's wording;
            that of CLIP-FlanT5 is 'Does this figure show "{prompt}"? Please answer yes or no.'
    """

    kind = "vqascore"
    title = "VQAScore"
    summary = "agreement of image and prompt, by a vision-language model"
    unit = "probability of yes"
    value_range = (0.0, 1.0)

    question: str = 'Does this image show "{prompt}"? Answer the question with Yes or No.'

    def __post_init__(self) -> None:
        super().__post_init__()
        if "{prompt}" not in self.question:
            raise ValueError(f"question={self.question!r} must hold {{prompt}}")

    def questions(self, sample: Sample) -> list[Question]:
        """The one."""
        # Not format: a prompt or a question may hold braces of its own.
        return [Question(self.question.replace("{prompt}", sample.prompt), sample.image, YES)]

    def judged(self, sample: Sample, probabilities: Sequence[float]) -> Score:
        """The probability itself."""
        return Score(sample_id=sample.sample_id, value=probabilities[0])
