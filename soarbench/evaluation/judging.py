"""A judge over images on disk: a bounded number in memory, the next decoded while it works."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence

from evaluators.base import Evaluator, Score
from evaluators.samples import SampleFile, iter_samples

#: Images decoded and judged at a time, at most; as many again are decoded meanwhile.
CHUNK = 32
#: Pixels of these, at most: 192 MiB in RGB.
PIXELS_AT_A_TIME = 64 * 2**20
_DECODERS = max(2, min(8, os.cpu_count() or 2))


def images_at_a_time(largest: int) -> int:
    """How many images are judged together, by the pixels of the largest one."""
    return max(1, min(CHUNK, PIXELS_AT_A_TIME // max(largest, 1)))


def scored(
    evaluator: Evaluator, files: Sequence[SampleFile], at_a_time: int = CHUNK
) -> Iterator[tuple[Sequence[SampleFile], list[Score]]]:
    """Judge images in order while the next ones are decoded.

    Args:
        evaluator: The judge.
        files: The images.
        at_a_time: Images in memory for the judge; at most as many again wait for it.

    Yields:
        Some files and their scores.

    Raises:
        ImageError: At the first image that cannot be used.
        RuntimeError: The judge breaks its promise of one score an image, in order.
    """
    samples = iter_samples(files, workers=_DECODERS, ahead=at_a_time)
    for start in range(0, len(files), at_a_time):
        part = files[start : start + at_a_time]
        found = evaluator.score(list(itertools.islice(samples, at_a_time)))
        if [score.sample_id for score in found] != [file.sample_id for file in part]:
            raise RuntimeError(
                f"evaluator {evaluator.name!r} gave {len(found)} scores for {len(part)} images, "
                "or gave them out of order"
            )
        yield part, found
