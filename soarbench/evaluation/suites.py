"""Where the prompts of suites come from. Imports no framework."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from evaluators.vlm.geneval2 import NUM_PROMPTS
from evaluators.vlm.geneval2 import PROMPTS as GENEVAL2
from soarbench.common.errors import UserError
from soarbench.common.strict import ADDRESS
from soarbench.config.suites import SuiteConfig, missing_prompts
from soarbench.data.prompts import PromptItem, PromptSuite


@dataclass(frozen=True, kw_only=True)
class OfficialGenEval(SuiteConfig):
    """GenEval's official prompts, which follow from their published sampling procedure."""

    def items(self) -> list[PromptItem]:
        """All 553."""
        from evaluators.geneval.prompts import official_metadata

        return self.numbered(official_metadata())


@dataclass(frozen=True, kw_only=True)
class PromptFile(SuiteConfig):
    """Prompts of a file that the user brings.

    Attributes:
        prompts: The file: one prompt a line, or JSON Lines with ``prompt``.
        prompts_sha256: Of that file; filled in when a grid is expanded.
        prompts_published: How many different prompts the published file holds.
    """

    # The content is what counts, wherever the file lies.
    prompts: str | None = field(default=None, metadata=ADDRESS)
    prompts_sha256: str | None = None
    prompts_published: int = field(metadata=ADDRESS)

    def items(self) -> list[PromptItem]:
        """The different prompts; ``UserError`` without a file."""
        if self.prompts is None:
            raise UserError(missing_prompts(self))
        items = read_prompts(Path(self.prompts).expanduser(), self.name)
        # DrawBench's public file has each of its 200 prompts five times; how many images a prompt
        # gets is ours to say.
        return list({item.prompt: item for item in items}.values())

    @property
    def needs_file(self) -> bool:
        """Whether it is not named yet."""
        return self.prompts is None

    @property
    def num_published(self) -> int:
        """As configured."""
        return self.prompts_published


@dataclass(frozen=True, kw_only=True)
class GenEval2(PromptFile):
    """GenEval 2's prompts with their questions: what ``fetch geneval2`` got, or a copy of it."""

    prompts_sha256: str | None = GENEVAL2.sha256
    prompts_published: int = field(default=NUM_PROMPTS, metadata=ADDRESS)

    def items(self) -> list[PromptItem]:
        """All 800."""
        return read_prompts(Path(self.prompts or GENEVAL2.path).expanduser(), self.name)

    @property
    def needs_file(self) -> bool:
        """Whether it is neither named nor fetched."""
        return self.prompts is None and not GENEVAL2.path.is_file()


def load_suite(config: SuiteConfig) -> PromptSuite:
    """All prompts of a suite; ``UserError`` where they cannot be read."""
    if config.needs_file:
        # Blank ones are enough for a dry run, and nothing else starts without the file.
        items = config.numbered({"prompt": ""} for _ in range(config.num_published))
    else:
        items = config.items()
    return PromptSuite(config.name, tuple(items))


def read_prompts(path: Path, suite: str) -> list[PromptItem]:
    """A prompt a line of a file; ``UserError`` where it is missing, empty or malformed.

    Args:
        path: JSON Lines with ``prompt``, or plain text.
        suite: Its name, with which ids begin.
    """
    if not path.is_file():
        raise UserError(f"prompts={path}: no such file")
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"prompts={path} is not UTF-8 text ({error})") from error
    if not lines:
        raise UserError(f"prompts={path} is empty")
    numbers: dict[str, int] = {}
    items = []
    for position, line in enumerate(lines, start=1):
        entry = read_entry(line, f"{path} line {position}") if path.suffix == ".jsonl" else None
        text = line.strip() if entry is None else str(entry["prompt"])
        # Equal lines are one prompt: a file that repeats each prompt names several images of it.
        index = numbers.setdefault(text, len(numbers))
        items.append(PromptItem(f"{suite}/{index:05d}", text, entry or {"prompt": text}))
    return items


def read_entry(line: str | bytes, where: str) -> dict[str, object]:
    """A line's object; ``UserError`` where it is none, or its ``prompt`` is no text."""
    entry = read_object(line, where)
    if not isinstance(entry.get("prompt"), str) or not entry["prompt"]:
        raise UserError(f"{where}: prompt is {entry.get('prompt')!r}; it must be the prompt's text")
    return entry


def read_object(line: str | bytes, where: str) -> dict[str, object]:
    """A line's object; ``UserError`` where it is none."""
    try:
        entry = json.loads(line)
    # Brackets within brackets, 50,000 deep, ended in a traceback.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise UserError(f"{where} is not a JSON object: {entry!r}")
    return entry
