"""A judge over images: the same for a run, a folder of anybody's images and a training set."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from PIL import Image

from evaluators.base import Evaluator, JudgeConfig, Sample, Score
from evaluators.batches import at_once
from evaluators.samples import SampleFile, iter_samples
from evaluators.scoring import checked_scores
from soarbench.common.errors import UserError
from soarbench.common.progress import Pace, Stage
from soarbench.evaluation.rows import Row, ScoreRows, is_unanswered, score_of, score_row

log = logging.getLogger(__name__)

#: What begins the units of numbers that weigh tasks alike.
_MACRO = "macro"
#: Images decoded and judged at a time, at most; as many again are decoded meanwhile.
CHUNK = 32
#: Pixels of one of these, at most: 192 MiB together, whatever the size of a user's images.
USUAL_PIXELS = 2 * 2**20


def refuse_unjudgeable(
    judges: Collection[JudgeConfig], prompts: Iterable[tuple[str, str, Mapping[str, object]]]
) -> None:
    """Make sure that judges can judge prompts, each given as its name in messages, text, metadata.

    ``UserError`` names the first that cannot be judged.
    """
    for label, prompt, metadata in prompts:
        for judge in judges:
            try:
                judge.check_prompt(prompt, metadata)
            except ValueError as error:
                raise UserError(f"{label}: {error}") from error


def images_at_a_time(largest: int) -> int:
    """How many images are judged together, by the pixels of the largest one."""
    return at_once(CHUNK, largest, usual=USUAL_PIXELS)


def decoded(
    evaluator: Evaluator, files: Sequence[SampleFile], at_a_time: int = CHUNK
) -> Iterator[list[Sample]]:
    """Images in order, ``at_a_time`` for the judge, while at most as many again are prepared.

    ``ImageError`` at the first one that cannot be used.
    """
    samples = iter_samples(files, evaluator.prepared, ahead=at_a_time)
    # No name holds the images that were judged while the next ones are waited for.
    for _ in range(0, len(files), at_a_time):
        yield list(itertools.islice(samples, at_a_time))


def judge_samples(
    evaluator: Evaluator,
    chunks: Iterable[Sequence[Sample]],
    rows: ScoreRows,
    *,
    fingerprint: str,
    progress: Stage | Pace,
    facts: Mapping[str, Row] = MappingProxyType({}),
) -> None:
    """Score chunks of images that are judged together; their rows are on disk as soon as made.

    ``facts`` are further columns of a row, by sample id: ``image_index``, ``image_sha256``.
    """
    for chunk in chunks:
        scores = checked_scores(evaluator, chunk)
        rows.append(
            [
                score_row(sample, score, fingerprint, facts.get(sample.sample_id, {}))
                for sample, score in zip(chunk, scores, strict=True)
            ]
        )
        progress.advance(len(chunk))
        # Before the next ones come: a chunk is most of the memory.
        del chunk


def judge_files(
    evaluator: Evaluator,
    files: Sequence[SampleFile],
    rows: ScoreRows,
    *,
    fingerprint: str,
    largest: int,
    progress: Stage | Pace,
    sha256: Mapping[str, str] = MappingProxyType({}),
    only: Callable[[int], bool] = lambda _: True,
) -> None:
    """Score the images that have no row yet; ``summed_up`` ends the judging.

    Args:
        evaluator: The judge.
        files: All images.
        rows: Where their scores come.
        fingerprint: Of the judge's protocol.
        largest: Pixels of the largest image.
        progress: Counts images; those with a finished row are the share of chunk 0.
        sha256: Of each image by sample id, where others made them.
        only: Whether this process judges a chunk of ``chunks_to_judge``, by its number.
    """
    chunks = chunks_to_judge(files, rows, largest)
    if only(0):
        progress.skip(len(files) - sum(map(len, chunks)))
    own = [chunk for number, chunk in enumerate(chunks) if only(number)]
    unjudged = [chunk for chunk in own if not rows.has(file.sample_id for file in chunk)]
    missing = list(itertools.chain.from_iterable(unjudged))
    progress.skip(sum(map(len, own)) - len(missing))
    facts = {
        file.sample_id: {
            "image_index": file.image_index,
            "image_sha256": sha256.get(file.sample_id),
        }
        for file in missing
    }
    judge_samples(
        evaluator,
        decoded(evaluator, missing, images_at_a_time(largest)),
        rows,
        fingerprint=fingerprint,
        progress=progress,
        facts=facts,
    )


def chunks_to_judge(
    files: Sequence[SampleFile], rows: ScoreRows, largest: int
) -> list[Sequence[SampleFile]]:
    """Images without a finished row, as they are judged together; ``largest`` in pixels."""
    finished = {row["sample_id"] for row in rows.finished() if not is_unanswered(row)}
    # Not of what nobody has judged: which images share a batch, and so the last bits of their
    # scores, must not depend on who judges, nor on when a judging was interrupted.
    missing = [file for file in files if file.sample_id not in finished]
    size = images_at_a_time(largest)
    return [missing[start : start + size] for start in range(0, len(missing), size)]


def summed_up(
    evaluator: Evaluator, files: Sequence[SampleFile], rows: ScoreRows
) -> dict[str, float]:
    """Make one table of the rows of all chunks. -> The judge's summary of ``files``."""
    rows.finish([file.sample_id for file in files])
    # Of what is stored, so that a resumed judging sums up what a straight one does. Aggregation
    # does not read pixels.
    blank = Image.new("RGB", (1, 1))
    scores = {str(row["sample_id"]): score_of(row) for row in rows.read()}
    samples = [file.with_image(blank) for file in files]
    judged = [scores[file.sample_id] for file in files]
    numbers = evaluator.aggregate(samples, judged)
    lost = _lost_tasks(evaluator, files, judged)
    if not lost:
        return numbers
    units = evaluator.config.units
    unknown = [name for name in numbers if units.get(name, "").startswith(_MACRO)]
    log.warning(
        "%s: no image of task %s could be scored, so there is no %s",
        evaluator.name,
        ", ".join(sorted(lost)),
        ", ".join(unknown),
    )
    return {**numbers, **dict.fromkeys(unknown, math.nan)}


def _lost_tasks(
    evaluator: Evaluator, files: Sequence[SampleFile], scores: Sequence[Score]
) -> set[str]:
    """Tasks of a mean over tasks that none of their images has a score for."""
    if not evaluator.config.is_macro_mean:
        return set()
    tags = [str(file.metadata["tag"]) if "tag" in file.metadata else None for file in files]
    scored = {tag for tag, one in zip(tags, scores, strict=True) if one.reason is None}
    return {tag for tag in tags if tag is not None} - scored
