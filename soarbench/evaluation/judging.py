"""A judge over images: the same for a run, a folder of anybody's images and a training set.

A bounded number of images is in memory, the next ones are decoded while the judge works, and rows
are on disk as soon as they are made, so that an interrupted judging goes on where it was.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

from PIL import Image

from evaluators.base import Evaluator, Sample
from evaluators.samples import SampleFile, iter_samples
from evaluators.scoring import checked_scores
from soarbench.evaluation.drawing import Counter
from soarbench.evaluation.rows import ScoreRows, score_of, score_row

#: Images decoded and judged at a time, at most; as many again are decoded meanwhile.
CHUNK = 32
#: Pixels of these, at most: 192 MiB in RGB.
PIXELS_AT_A_TIME = 64 * 2**20
_DECODERS = max(2, min(8, os.cpu_count() or 2))


def images_at_a_time(largest: int) -> int:
    """How many images are judged together, by the pixels of the largest one."""
    return max(1, min(CHUNK, PIXELS_AT_A_TIME // max(largest, 1)))


def decoded(files: Sequence[SampleFile], at_a_time: int = CHUNK) -> Iterator[list[Sample]]:
    """Images in order, some at a time, while the next ones are decoded.

    Args:
        files: The images.
        at_a_time: Images in memory for the judge; at most as many again wait for it.

    Raises:
        ImageError: At the first image that cannot be used.
    """
    samples = iter_samples(files, workers=_DECODERS, ahead=at_a_time)
    # No name holds the images that were judged while the next ones are waited for.
    for _ in range(0, len(files), at_a_time):
        yield list(itertools.islice(samples, at_a_time))


def judge_samples(
    evaluator: Evaluator,
    chunks: Iterable[Sequence[Sample]],
    rows: ScoreRows,
    *,
    fingerprint: str,
    progress: Counter,
    facts: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
) -> None:
    """Score images and keep their rows.

    Args:
        evaluator: The judge.
        chunks: Images that are judged together.
        rows: Where their rows go.
        fingerprint: Of the protocol.
        progress: Counts images.
        facts: Further columns of a row, by sample id: ``image_index``, ``image_sha256``.

    Raises:
        RuntimeError: The judge breaks its promise of one score an image, in order.
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
    progress: Counter,
    sha256: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Score the images that have no row yet, and make one table of all rows.

    Args:
        evaluator: The judge.
        files: The images, in the order of their rows.
        rows: Where they go; rows that are there stay.
        fingerprint: Of the protocol.
        largest: Pixels of the largest image.
        progress: Counts images.
        sha256: Digest of each image by sample id, where others made them.
    """
    done = {str(row["sample_id"]) for row in rows.read()}
    progress.skip(sum(file.sample_id in done for file in files))
    missing = [file for file in files if file.sample_id not in done]
    judge_samples(
        evaluator,
        decoded(missing, images_at_a_time(largest)),
        rows,
        fingerprint=fingerprint,
        progress=progress,
        facts={
            file.sample_id: {
                "image_index": file.image_index,
                "image_sha256": sha256.get(file.sample_id),
            }
            for file in missing
        },
    )
    rows.finish([file.sample_id for file in files])


def aggregated(
    evaluator: Evaluator, files: Sequence[SampleFile], rows: ScoreRows
) -> dict[str, float]:
    """The judge's summary of some images, whose rows are there."""
    # Aggregation does not read pixels.
    blank = Image.new("RGB", (1, 1))
    scores = {str(row["sample_id"]): score_of(row) for row in rows.read()}
    samples = [file.with_image(blank) for file in files]
    return evaluator.aggregate(samples, [scores[file.sample_id] for file in files])
