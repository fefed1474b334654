"""What an evaluation asks a model to draw, and who judges it; imports no framework."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from soarbench.common.strict import ADDRESS
from soarbench.data.prompts import PromptItem

#: Of prompts, or of images of one; a list of many more would take a machine's memory.
_MOST = 100_000


@dataclass(frozen=True, kw_only=True)
class SuiteConfig(abc.ABC):
    """A prompt suite and what judges its images; a subclass is a source of prompts.

    Attributes:
        name: Of the suite; prompt ids, and with them the evaluation noise, begin with it.
        judges: Names of the judges.
        images_per_prompt: Images of each prompt, each with a seed of its own.
        max_prompts: Evaluate this many, evenly spaced; null takes all.
        judges_of: The model whose judges these names mean where none is trained (``score``,
            ``evaluate``).
        published_images: Images a prompt of the published benchmark, which ``score`` insists on;
            null: as many as the first prompt has.
    """

    name: str
    judges: tuple[str, ...]
    images_per_prompt: int = 1
    max_prompts: int | None = None
    # Neither changes a number: who judges is in the scores' own address.
    judges_of: str = field(default="sd35_medium", metadata=ADDRESS)
    published_images: int | None = field(default=None, metadata=ADDRESS)

    def __post_init__(self) -> None:
        for key in ("images_per_prompt", "max_prompts", "published_images"):
            value = getattr(self, key)
            if value is not None and not 1 <= value <= _MOST:
                raise ValueError(f"{key}={value}: must be in 1..{_MOST}")

    @abc.abstractmethod
    def items(self) -> list[PromptItem]:
        """All its prompts, in order, made by ``numbered``; ``UserError`` where they are missing."""

    @property
    def files(self) -> tuple[Path, ...]:
        """What its prompts are read from, beside its own code."""
        return ()

    @property
    def needs_file(self) -> bool:
        """Whether its prompts come from a file that is not named yet."""
        return False

    @property
    def fetched_by(self) -> str:
        """What ``fetch`` is asked for to get them; empty where it cannot."""
        return ""

    @property
    def num_published(self) -> int:
        """How many prompts it has as published."""
        return len(self.items())

    def numbered(self, entries: Iterable[Mapping[str, object]]) -> list[PromptItem]:
        """Prompts with their ids; an entry is a ``prompt`` and what judges want to know of it."""
        # An id seeds the noise of its images: another form of it would be another evaluation.
        return [
            PromptItem(f"{self.name}/{index:05d}", str(entry["prompt"]), entry)
            for index, entry in enumerate(entries)
        ]


def missing_prompts(suite: SuiteConfig) -> str:
    """What to do about a suite without prompts."""
    name = suite.fetched_by
    fetch = f"`python -m soarbench fetch {name}` gets them, or " if name else ""
    return (
        f"suite {suite.name!r} has no prompts here: {fetch}give suites.{suite.name}.prompts=FILE, "
        "one prompt a line or JSON Lines (the published file holds "
        f"{suite.num_published} different ones)"
    )
