"""GenEval: does an image show the objects, counts, colours and positions that its prompt asks for?

The official verdict (Ghosh et al., arXiv:2310.11513) asks for *at least* the objects wanted. The
strict one is the reward of Flow-GRPO (arXiv:2505.05470): *exactly* them, with partial credit.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from evaluators.base import Canary, Evaluator, JudgeConfig, Sample, Score, mean_of
from evaluators.geneval.config import GenEvalConfig
from evaluators.geneval.detectors import Box, Detection, Detector, as_detection
from evaluators.geneval.metadata import (
    Clause,
    MetadataError,
    Request,
    check_vocabulary,
    parse_request,
)

# The thresholds of GenEval's evaluate_images.py; its agreement with people (83 %) is theirs.
CONFIDENCE = 0.3
#: Counting trusts confident detections only: doubtful ones are mostly duplicates.
COUNTING_CONFIDENCE = 0.9
MAX_OBJECTS_PER_CLASS = 16
#: Part of two objects' summed size by which their centres must differ to count as a position.
POSITION_MARGIN = 0.1


@dataclass(frozen=True)
class Verdict:
    """What an image was judged to be, and why it is not correct, in words (empty where it is).

    ``strict_score`` is the mean of the strict verdict's partial credits; at most 1, and below 0
    where more than twice as many objects are found as wanted.
    """

    correct: bool
    strict_correct: bool
    strict_score: float
    reason: str
    strict_reason: str


def judge(
    detections: Sequence[Detection | Mapping[str, object]], metadata: Mapping[str, object]
) -> Verdict:
    """Judge one image by its detections.

    They come in any order and of any confidence, with a colour where one is asked for.

    Raises:
        MetadataError: The metadata (``tag``, ``include``, ``exclude``) cannot be judged.
        ValueError: A detection is malformed, or lacks a colour that matters.

    Source: GenEval, ``evaluate_images.py``; Flow-GRPO's reward server, ``gen_eval.py``.
    """
    request = parse_request(metadata)
    all_objects = [as_detection(item) for item in detections]
    rows = confident_indices(all_objects, request.tag)
    objects = {label: [all_objects[i] for i in kept] for label, kept in rows.items()}
    _, problems = _walk(objects, request, exact=False)
    parts, strict_problems = _walk(objects, request, exact=True)
    # The strict verdict has no use for it: an exact count is never one too many.
    for clause in request.exclude:
        count = len(objects.get(clause.label, ()))
        if count >= clause.count:
            problems.append(f'expected fewer than {clause.count} "{clause.label}", found {count}')
    return Verdict(
        correct=not problems,
        strict_correct=not strict_problems,
        strict_score=mean_of(parts) if parts else 0.0,
        reason="; ".join(problems),
        strict_reason="; ".join(strict_problems),
    )


def confidence_threshold(tag: str) -> float:
    """The score that a detection must exceed to count, by task."""
    return COUNTING_CONFIDENCE if tag == "counting" else CONFIDENCE


def confident_indices(detections: Sequence[Detection], tag: str) -> dict[str, list[int]]:
    """Which detections count for a task: per class by falling score, at most 16."""
    threshold = confidence_threshold(tag)
    groups: dict[str, list[int]] = defaultdict(list)
    # Among equals the later first: the published code reverses an ascending sort.
    order = sorted(range(len(detections)), key=lambda i: (detections[i].score, i), reverse=True)
    for index in order:
        detection = detections[index]
        if detection.score > threshold and len(groups[detection.label]) < MAX_OBJECTS_PER_CLASS:
            groups[detection.label].append(index)
    return dict(groups)


def indices_to_color(detections: Sequence[Detection], request: Request) -> list[int]:
    """Which detections' colours a verdict on ``request`` reads."""
    # Of the best that are wanted, and only where there are enough: naming a colour costs a crop and
    # a pass of CLIP, and most objects' colours decide nothing.
    objects = confident_indices(detections, request.tag)
    needed: set[int] = set()
    for clause in request.include:
        rows = objects.get(clause.label, [])
        if clause.color is not None and len(rows) >= clause.count:
            needed.update(rows[: clause.count])
    return sorted(needed)


def _walk(
    objects: Mapping[str, Sequence[Detection]], request: Request, *, exact: bool
) -> tuple[list[float], list[str]]:
    """Check all ``include`` clauses. -> partial credits and what is wrong, in words."""
    parts: list[float] = []
    problems: list[str] = []
    groups: list[Sequence[Detection] | None] = []
    for clause in request.include:
        # Cut to what is wanted, "at least" is "exactly": both verdicts share their checks.
        detections = objects.get(clause.label, ())[: None if exact else clause.count]
        more, problem = _check_clause(clause, detections, groups, exact=exact)
        parts += more
        groups.append(None if problem else detections)
        if problem:
            problems.append(problem)
    return parts, problems


def _check_clause(
    clause: Clause,
    objects: Sequence[Detection],
    groups: Sequence[Sequence[Detection] | None],
    *,
    exact: bool,
) -> tuple[list[float], str]:
    """Partial credits of one clause and what is wrong with it (empty if nothing)."""
    # Negative when more than twice as many are found, as in the published reward.
    parts = [1 - abs(clause.count - len(objects)) / clause.count]
    if len(objects) != clause.count:
        if clause.color is not None or clause.relation is not None:
            parts.append(0.0)
        how_many = "exactly" if exact else "at least"
        return parts, f'expected {how_many} {clause.count} "{clause.label}", found {len(objects)}'
    if clause.color is not None:
        colors = [detection.color for detection in objects]
        if None in colors:
            raise ValueError(
                f"detection of {clause.label!r} has no colour, but the prompt asks for one: the "
                "detector must classify the colours that indices_to_color names"
            )
        hits = colors.count(clause.color)
        parts.append(1 - abs(clause.count - hits) / clause.count)
        if hits != clause.count:
            listed = ", ".join(f"{colors.count(color)} {color}" for color in dict.fromkeys(colors))
            wish = f'expected {clause.count} {clause.color} "{clause.label}"'
            return parts, f"{wish}, found {listed}"
    if clause.relation is None or clause.target is None:
        return parts, ""
    targets = groups[clause.target]
    if targets is None:
        return [*parts, 0.0], f'no target for "{clause.label}" to be {clause.relation}'
    problem = _position_problem(clause, objects, targets)
    # A wrong position earns both a 0 and a 1 in the published reward; the scores depend on it.
    return [*parts, 0.0, 1.0] if problem else [*parts, 1.0], problem


def _position_problem(
    clause: Clause, objects: Sequence[Detection], targets: Sequence[Detection]
) -> str:
    """The first pair that stands otherwise than wanted, in words; empty if none does."""
    for detection in objects:
        for target in targets:
            relations = relative_position(detection.box, target.box)
            if clause.relation not in relations:
                actual = " and ".join(sorted(relations)) or "in no clear direction of"
                return (
                    f'expected "{clause.label}" {clause.relation} "{target.label}", '
                    f"found it {actual} that"
                )
    return ""


def relative_position(box: Box, target: Box) -> set[str]:
    """How a box lies to another, at most one word an axis; x1, y1, x2, y2 in pixels, y downwards.

    The offset of the centres is first shortened, along each axis, by a tenth of the two boxes'
    summed extent; a direction counts when what is left exceeds half of the whole offset.
    """
    offsets, rests = [], []
    for low, high in ((0, 2), (1, 3)):
        offset = (box[low] + box[high]) / 2 - (target[low] + target[high]) / 2
        extent = abs(box[high] - box[low]) + abs(target[high] - target[low])
        offsets.append(offset)
        rests.append(math.copysign(max(abs(offset) - POSITION_MARGIN * extent, 0.0), offset))
    # Boxes in the same place have no direction, and an offset of length 0.
    if max(abs(rest) for rest in rests) < 1e-3:
        return set()
    # By the whole offset and not by what is left of it, as published.
    length = math.sqrt(offsets[0] ** 2 + offsets[1] ** 2)
    right, down = (rest / length for rest in rests)
    held = {
        "left of": right < -0.5, "right of": right > 0.5, "above": down < -0.5, "below": down > 0.5,
    }  # fmt: skip
    return {relation for relation, holds in held.items() if holds}


class GenEval(Evaluator):
    """The benchmark on any ``Detector``: 1 for a correct image, 0 for a wrong one."""

    def __init__(
        self,
        detector: Detector,
        *,
        canaries: Sequence[Canary],
        config: JudgeConfig = GenEvalConfig(),  # noqa: B008 (frozen)
    ) -> None:
        """Bind a detector, whose class and colour names are the vocabulary of prompts."""
        if not canaries:
            raise ValueError("GenEval needs at least one canary: a wrong detector looks like 0.03")
        self.config = config
        self._detector = detector
        self._canaries = tuple(canaries)

    @property
    def weights_hash(self) -> str:
        """The detector's name, version and weights."""
        return f"{self._detector.name}-{self._detector.version}-{self._detector.weights_hash}"

    def canaries(self) -> Sequence[Canary]:
        """The pairs given at construction."""
        return self._canaries

    def score(self, samples: Sequence[Sample]) -> list[Score]:
        """Judge images; details hold both verdicts, their reasons, the task and object counts."""
        # All before the first is detected: an hour of detecting is not lost to the last prompt.
        for sample in samples:
            try:
                self.check(sample.prompt, sample.metadata)
            except MetadataError as error:
                raise MetadataError(f"sample {sample.sample_id}: {error}") from error
        metadatas = [sample.metadata for sample in samples]
        per_image = self._detector.detect([sample.image for sample in samples], metadatas)
        return [self._score_one(*pair) for pair in zip(samples, per_image, strict=True)]

    def check(self, prompt: str, metadata: Mapping[str, object]) -> None:  # noqa: ARG002
        """Refuse (``MetadataError``) what cannot be read, or what the detector does not know."""
        request = parse_request(metadata)
        check_vocabulary(request, self._detector.class_names, self._detector.color_names)

    def reward(self, score: Score) -> float:
        """The strict score with its partial credit, which Flow-GRPO is rewarded with."""
        # With 0 and 1 alone, a hard prompt's images would all be worth 0 and teach nothing.
        return float(str(score.details["strict_score"]))

    def _score_one(self, sample: Sample, detections: Sequence[Detection]) -> Score:
        if not all(math.isfinite(detection.score) for detection in detections):
            reason = "the detector gave a score that is not finite; run it in float32"
            return Score.unscored(sample.sample_id, reason)
        verdict = judge(detections, sample.metadata)
        tag = parse_request(sample.metadata).tag
        objects = sorted(confident_indices(detections, tag).items())
        counts = {label: len(rows) for label, rows in objects}
        details = {**asdict(verdict), "tag": tag, "detections": counts}
        return Score(sample_id=sample.sample_id, value=float(verdict.correct), details=details)

    def aggregate(self, samples: Sequence[Sample], scores: Sequence[Score]) -> dict[str, float]:
        """Summary numbers, all shares 0..1 but the count of unscored images.

        ``overall`` is the mean of the means of the tasks that occur, as GenEval has it;
        ``images_correct`` and ``images_strict_score`` are means over images, as HY-SOAR prints
        them; ``prompts_correct`` is the share of prompts with at least one correct image;
        ``strict_overall`` and ``strict_score`` are task means' means of the strict verdict and of
        its partial credit.
        """
        scored = [score for score in scores if score.reason is None]
        tasks = _task_means(scored, "correct")
        prompts: dict[str, float] = {}
        for sample, score in zip(samples, scores, strict=True):
            if score.reason is None:
                prompts[sample.prompt_id] = max(score.value, prompts.get(sample.prompt_id, 0.0))
        return {
            "overall": mean_of(tasks.values()),
            **tasks,
            "strict_overall": mean_of(_task_means(scored, "strict_correct").values()),
            "strict_score": mean_of(_task_means(scored, "strict_score").values()),
            "images_correct": mean_of([score.value for score in scored]),
            "images_strict_score": mean_of([_number(score, "strict_score") for score in scored]),
            "prompts_correct": mean_of(prompts.values()),
            "unscored": float(len(scores) - len(scored)),
        }


def _task_means(scored: Sequence[Score], key: str) -> dict[str, float]:
    """Mean of a numeric detail by task."""
    tasks: dict[str, list[float]] = defaultdict(list)
    for score in scored:
        tasks[str(score.details["tag"])].append(_number(score, key))
    return {tag: mean_of(values) for tag, values in tasks.items()}


def _number(score: Score, key: str) -> float:
    value = score.details[key]
    assert isinstance(value, bool | int | float)
    return float(value)
