"""GenEval 2's Soft-TIFA: one question an atom of the prompt (arXiv:2512.16853)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, TypeGuard

from evaluators.base import Canary, Sample, Score, mean_of
from evaluators.vlm.base import QuestionsConfig
from evaluators.vlm.questions import YES, Question
from evaluators.weights import PublishedFile

_COMMIT = "a6e82d2289e8d418f27f0adee77908b07060eea3"
#: The benchmark: 800 prompts, each with its questions. Its licence is CC BY-NC 4.0.
PROMPTS = PublishedFile(
    name="geneval2_data.jsonl",
    url=f"https://raw.githubusercontent.com/facebookresearch/GenEval2/{_COMMIT}/geneval2_data.jsonl",
    sha256="09233adbc9f877fba205f1a20efa4a8640e7e62a91dfd55893562bed8a928e43",
    disk_gb=0.001,
)
NUM_PROMPTS = 800
SKILLS = ("object", "attribute", "count", "position", "verb")
_NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS, start=1)}


@dataclass(frozen=True, kw_only=True)
class GenEval2Config(QuestionsConfig):
    """The geometric mean of an image's answers; their arithmetic mean beside it."""

    kind = "geneval2"
    title = "GenEval 2"
    summary = "atoms of the prompt, by a vision-language model"
    unit = "Soft-TIFA GM: geometric mean of the answers' probabilities"
    units: ClassVar[Mapping[str, str]] = {
        "soft_tifa_am": "mean over images of their answers' mean, 0..1",
        **dict.fromkeys(SKILLS, "mean of the answers about it, 0..1"),
    }
    value_range = (0.0, 1.0)
    optional: ClassVar[tuple[PublishedFile, ...]] = (PROMPTS,)

    def check_prompt(self, prompt: str, metadata: Mapping[str, object]) -> None:
        """Refuse, by a ``ValueError``, a prompt without GenEval 2's questions, or other skills."""
        named = f"prompt {prompt[:80]!r}"
        questions, skills = metadata.get("vqa_list"), metadata.get("skills") or ()
        if not (_is_list(questions) and questions):
            raise ValueError(
                f"{named} has no vqa_list: geneval2 judges the suite geneval2, or JSON Lines with "
                "vqa_list and skills"
            )
        for pair in questions:
            if not (_is_list(pair) and len(pair) == 2):
                raise ValueError(
                    f"{named}: {str(pair)[:80]!r} in vqa_list must be a list of a question and "
                    "its answer"
                )
        # Else found out by the first answers, of a model that was loaded for them.
        if not _is_list(skills) or len(skills) not in (0, len(questions)):
            raise ValueError(
                f"{named}: skills is {str(skills)[:80]!r}; give one to each of the "
                f"{len(questions)} questions of vqa_list, or leave skills out"
            )

    def questions(self, sample: Sample) -> list[Question]:
        """One a pair of question and answer in the prompt's ``vqa_list``."""
        self.check_prompt(sample.prompt, sample.metadata)
        return [
            Question(f"{question} Answer in one word.", sample.image, answers_to(question, answer))
            for question, answer in _pairs(sample.metadata)
        ]

    def judged(self, sample: Sample, probabilities: Sequence[float]) -> Score:
        """Soft-TIFA GM; details hold AM and the answers by skill."""
        skills = sample.metadata.get("skills")
        names = [str(one) for one in skills] if isinstance(skills, Sequence) else []
        by_skill: dict[str, list[float]] = defaultdict(list)
        for name, probability in zip(names, probabilities, strict=bool(names)):
            by_skill[name].append(probability)
        details = {"soft_tifa_am": mean_of(probabilities), "skills": dict(by_skill)}
        value = geometric_mean(probabilities)
        return Score(sample_id=sample.sample_id, value=value, details=details)

    def aggregate(self, scores: Sequence[Score]) -> dict[str, float]:
        """Soft-TIFA AM, and the mean over all atoms of each skill that occurs."""
        means = [float(str(score.details["soft_tifa_am"])) for score in scores]
        atoms: dict[str, list[float]] = defaultdict(list)
        for score in scores:
            skills = score.details["skills"]
            assert isinstance(skills, Mapping)
            for name, values in skills.items():
                atoms[name] += values
        return {"soft_tifa_am": mean_of(means)} | {k: mean_of(v) for k, v in sorted(atoms.items())}

    def canaries(self) -> Sequence[Canary]:
        """Drawn shapes, asked for as GenEval 2 asks."""
        return [
            Canary(good=_asked(canary.good), bad=_asked(canary.bad))
            for canary in super().canaries()
        ]


def answers_to(question: str, answer: str) -> tuple[str, ...]:
    """The forms that count: of a number its word and its digit, of all else yes."""
    if not question.startswith("How many"):
        return YES
    digit = _DIGITS.get(answer, "other")
    forms = (answer, answer.capitalize(), digit)
    return (*forms, *(f" {form}" for form in forms))


def geometric_mean(values: Sequence[float]) -> float:
    """0 where a value is."""
    if not all(values):
        return 0.0
    return math.exp(mean_of([math.log(value) for value in values]))


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _pairs(metadata: Mapping[str, object]) -> list[tuple[str, str]]:
    pairs = metadata["vqa_list"]
    assert isinstance(pairs, Sequence)
    return [(str(question), str(answer)) for question, answer in pairs]


def _asked(sample: Sample) -> Sample:
    wish = sample.prompt.removeprefix("a photo of ")
    entry = {"vqa_list": [[f"Is there {wish} in the image?", "Yes"]], "skills": ["object"]}
    return replace(sample, metadata=entry)
