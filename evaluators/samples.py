"""Images to be judged that are still on disk: decoded late, a few ahead of the judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from evaluators.base import Sample
from evaluators.images import in_threads, load_image

_NUM_SHOWN = 5


class CoverageError(ValueError):
    """Images and prompts do not match; the message lists what is missing or too many."""


@dataclass(frozen=True, kw_only=True)
class SampleFile:
    """A ``Sample`` whose image is still on disk; ``image_index`` counts those of its prompt."""

    sample_id: str
    prompt_id: str
    prompt: str
    path: Path
    metadata: Mapping[str, object]
    image_index: int = 0

    def with_image(self, image: Image.Image) -> Sample:
        """The sample with its decoded image."""
        return Sample(
            sample_id=self.sample_id,
            prompt_id=self.prompt_id,
            prompt=self.prompt,
            image=image,
            metadata=self.metadata,
        )


def iter_samples(
    files: Sequence[SampleFile], prepared: Callable[[Sample], Sample], *, ahead: int = 16
) -> Iterator[Sample]:
    """Decode samples in threads, and prepare them as a judge has it, as ``in_threads`` does."""

    def decoded(file: SampleFile) -> Sample:
        return prepared(file.with_image(load_image(file.path)))

    return in_threads(decoded, files, ahead=ahead)


def check_counts(
    files: Sequence[SampleFile], prompt_ids: Sequence[str], *, images_per_prompt: int | None = None
) -> None:
    """Refuse (``CoverageError``) other numbers of images a prompt, by default than the first's."""
    # Elsewhere 544 of 553 prompts were evaluated, and padded duplicates averaged in.
    counts = Counter(file.prompt_id for file in files)
    expected = counts[prompt_ids[0]] if images_per_prompt is None else images_per_prompt
    wrong = [f"{name} has {counts[name]}" for name in prompt_ids if counts[name] != expected]
    if wrong:
        rest = len(wrong) - _NUM_SHOWN
        raise CoverageError(
            f"{len(wrong)} of {len(prompt_ids)} prompts do not have {expected} images: "
            f"{', '.join(wrong[:_NUM_SHOWN])}" + (f" and {rest} more" if rest > 0 else "")
        )
