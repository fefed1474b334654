"""``score``: judges images of any model that lie on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType

from rich.console import Console

from evaluators.base import EvaluatorError, JudgeConfig
from evaluators.geneval.metadata import MetadataError
from evaluators.images import ImageError
from evaluators.samples import CoverageError, SampleFile
from soarbench.common.errors import UserError
from soarbench.common.files import locked, make_writable
from soarbench.common.judge_errors import of_judge
from soarbench.common.progress import print_line
from soarbench.config.folders import search_path
from soarbench.config.registries import suite_named
from soarbench.data.prompts import PromptItem, PromptSuite
from soarbench.evaluation.image_folders import find_images, prompts_digest
from soarbench.evaluation.judging import refuse_unjudgeable
from soarbench.evaluation.request import ScoreOptions, ScoreRequest, score_request
from soarbench.evaluation.suites import read_prompts
from soarbench.evaluation.survey import survey
from soarbench.jobs.score_images import JudgedImages, one_line, score_all

_NONE: Mapping[str, JudgeConfig] = MappingProxyType({})


@contextmanager
def judges_complain_in_one_line(judges: Mapping[str, JudgeConfig] = _NONE) -> Iterator[None]:
    """What judges refuse, as a ``UserError``: their package knows none."""
    try:
        yield
    except EvaluatorError as error:
        raise UserError(of_judge(error, judges)) from error
    except (CoverageError, ImageError, MetadataError) as error:
        raise UserError(one_line(error)) from error


@judges_complain_in_one_line()
def score(options: ScoreOptions, words: Sequence[str], *, console: Console) -> int:
    """Score images and print the summary. -> 3 when an image or a judge has no score."""
    request = score_request(options, words)
    items: list[PromptItem] = []
    if request.prompts is not None:
        items = read_prompts(request.prompts, request.suite.name)
    elif not request.suite.needs_file:
        items = request.suite.items()
    prompts = PromptSuite(request.suite.name, tuple(items))
    files = _planned_files(request, prompts)
    surveyed = survey(files)
    if surveyed.note():
        print_line(console, surveyed.note())
    make_writable(request.output, "output")
    images = JudgedImages(
        request=request,
        files=files,
        largest=surveyed.largest,
        prompts=prompts_digest(files, prompts),
    )
    with locked(request.output), judges_complain_in_one_line(request.judges):
        return score_all(images, console)


def run_words(options: ScoreOptions, words: Sequence[str]) -> list[str]:
    """The settings of a run that has the suite's judges as they are here."""
    suite = suite_named(options.suite, search_path(words))
    return [f"model={suite.judges_of}", *words]


def _planned_files(request: ScoreRequest, prompts: PromptSuite) -> list[SampleFile]:
    """The images of a request, checked in everything but their pixels."""
    is_own = request.prompts is None
    is_exact = request.coverage == "exact" or not is_own
    # A number of a published benchmark is one over all its images; other prompts have no such rule.
    published = request.suite.published_images if is_exact and is_own else None
    count = request.images_per_prompt or published
    files = find_images(request.images, prompts, count, is_exact=is_exact)
    # Before a judge is loaded, which may take minutes.
    refuse_unjudgeable(
        request.judges.values(), ((f.sample_id, f.prompt, f.metadata) for f in files)
    )
    return files
