"""Prompt suites: what an evaluation asks a model to draw. Imports no framework."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from soarbench.common.errors import UserError


@dataclass(frozen=True)
class PromptItem:
    """One prompt of a suite; ``prompt_id`` is unique in it and fixes the evaluation seeds."""

    prompt_id: str
    prompt: str
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptSuite:
    """A named list of prompts."""

    name: str
    items: tuple[PromptItem, ...]

    @property
    def sha256(self) -> str:
        """Digest of prompts and metadata, for the fingerprint."""
        rows = [(item.prompt_id, item.prompt, dict(item.metadata)) for item in self.items]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _lab_suite(name: str) -> PromptSuite:
    from soarbench.lab.world.grammar import split

    found = split()
    compositions = {
        "lab_geneval": found.geneval,
        "lab_ocr": found.ocr,
        "lab_drawbench": found.drawbench,
    }[name]
    items = []
    for index, composition in enumerate(compositions):
        metadata = composition.metadata()
        items.append(PromptItem(f"{name}/{index:05d}", str(metadata["prompt"]), metadata))
    return PromptSuite(name, tuple(items))


def _official_geneval(name: str) -> PromptSuite:
    from evaluators.geneval.prompts import official_metadata

    items = [
        PromptItem(f"{name}/{index:05d}", str(entry["prompt"]), entry)
        for index, entry in enumerate(official_metadata())
    ]
    return PromptSuite(name, tuple(items))


_SUITES: dict[str, Callable[[str], PromptSuite]] = {
    "lab_geneval": _lab_suite,
    "lab_ocr": _lab_suite,
    "lab_drawbench": _lab_suite,
    "geneval": _official_geneval,
}
#: Suites whose prompts come from a file, and how many the published file holds.
FROM_FILE: Mapping[str, int] = {"drawbench": 200, "ocr": 1018}


def suite_names() -> tuple[str, ...]:
    """Every suite that ``load_suite`` knows."""
    return (*_SUITES, *FROM_FILE)


def load_suite(name: str, prompts: str | None = None) -> PromptSuite:
    """A suite by name.

    Args:
        name: Of the suite.
        prompts: File of prompts, for the suites that have none of their own.

    Raises:
        UserError: There is no such suite, or its prompts are missing or cannot be read.
    """
    if name in FROM_FILE:
        if prompts is None:
            raise UserError(missing_prompts(name))
        return _suite_of_file(name, Path(prompts).expanduser())
    if name not in _SUITES:
        raise UserError(f"suite={name!r} does not exist; choose one of {', '.join(suite_names())}")
    return _SUITES[name](name)


def missing_prompts(name: str) -> str:
    """What to do about a suite without prompts."""
    return (
        f"suite {name!r} has no prompts of its own: give suites.{name}.prompts=FILE, one prompt a "
        f"line or JSON Lines (the published file holds {FROM_FILE[name]} different ones)"
    )


def _suite_of_file(name: str, path: Path) -> PromptSuite:
    from soarbench.evaluation.image_folders import read_prompts

    # A prompt that a file repeats is one prompt: how many images it gets is the suite's to say.
    found = {item.prompt: item for item in read_prompts(path)}
    items = [
        PromptItem(f"{name}/{item.prompt_id}", item.prompt, item.metadata)
        for item in found.values()
    ]
    return PromptSuite(name, tuple(items))


def num_available(name: str, prompts: str | None) -> int:
    """Prompts of a suite; the published number where its file is not named yet."""
    if name in FROM_FILE and prompts is None:
        return FROM_FILE[name]
    return len(load_suite(name, prompts).items)


def normalised(prompt: str) -> str:
    """A prompt as the overlap check compares it: lower case, single spaces, no final stop."""
    return " ".join(prompt.lower().split()).rstrip(".")


def refuse_overlap(training_prompts: Iterable[str], suites: Sequence[PromptSuite]) -> None:
    """Refuse to train on a prompt that an evaluation asks for.

    Raises:
        UserError: A training prompt is also in a suite; names both.
    """
    held_out = {normalised(item.prompt): suite.name for suite in suites for item in suite.items}
    for prompt in training_prompts:
        suite_name = held_out.get(normalised(prompt))
        if suite_name is not None:
            raise UserError(
                f"training prompt {prompt!r} is also in the evaluation suite {suite_name!r}; "
                "remove it from the training data, since its score would mean nothing"
            )
