"""``score``: judges images of any model that lie on disk."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from evaluators.base import EvaluatorError
from evaluators.geneval.metadata import MetadataError
from evaluators.images import ImageError
from evaluators.samples import CoverageError
from soarbench.common.errors import UserError
from soarbench.common.files import locked, make_writable
from soarbench.evaluation.image_folders import prompts_digest
from soarbench.evaluation.request import ScoreRequest, planned_files, read_request
from soarbench.evaluation.survey import survey
from soarbench.jobs.score_images import JudgedImages, one_line, score_all


def score(words: Sequence[str], *, console: Console) -> int:
    """Score images and print the summary.

    Returns:
        Exit code: 0, or 3 when an image or a judge has no score.

    Raises:
        UserError: Something in the request or the images cannot be used.
    """
    request = read_request(words)
    try:
        return _score(request, console)
    except (EvaluatorError, CoverageError, ImageError, MetadataError) as error:
        raise UserError(one_line(error)) from error


def _score(request: ScoreRequest, console: Console) -> int:
    files = planned_files(request)
    surveyed = survey(files)
    if surveyed.note():
        console.print(surveyed.note(), highlight=False, markup=False, soft_wrap=True)
    make_writable(request.output, "output")
    images = JudgedImages(
        request=request, files=files, largest=surveyed.largest, prompts=prompts_digest(files)
    )
    with locked(request.output):
        return score_all(images, console)
