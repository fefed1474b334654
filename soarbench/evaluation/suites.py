"""Where the prompts of suites come from. Imports no framework."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from evaluators.vlm.geneval2 import NUM_PROMPTS
from evaluators.vlm.geneval2 import PROMPTS as GENEVAL2
from evaluators.weights import PublishedFile
from soarbench.common.errors import UserError
from soarbench.common.strict import ADDRESS
from soarbench.config.suites import SuiteConfig, missing_prompts
from soarbench.data.prompts import PromptItem, PromptSuite

_SIZES: dict[tuple[object, ...], tuple[str, int]] = {}


@dataclass(frozen=True, kw_only=True)
class OfficialGenEval(SuiteConfig):
    """GenEval's official prompts, which follow from their published sampling procedure."""

    def items(self) -> list[PromptItem]:
        """All 553."""
        from evaluators.geneval.prompts import official_metadata

        return self.numbered(official_metadata())


@dataclass(frozen=True, kw_only=True)
class PromptFile(SuiteConfig):
    """Prompts of a file: one that the user names, or the published one once it is fetched.

    Attributes:
        prompts: The file: one prompt a line, or JSON Lines with ``prompt``; null takes the
            published one.
        prompts_sha256: Of that file; filled in when a grid is expanded.
        prompts_published: How many different prompts the published file holds.
        published: That file, which ``fetch prompts`` gets; null: the user brings one.
    """

    # The content is what counts, wherever the file lies.
    prompts: str | None = field(default=None, metadata=ADDRESS)
    prompts_sha256: str | None = None
    prompts_published: int = field(metadata=ADDRESS)
    published: PublishedFile | None = field(default=None, metadata=ADDRESS)

    @property
    def official(self) -> PublishedFile | None:
        """The published file."""
        return self.published

    @property
    def path(self) -> Path | None:
        """The file; None where none is named and the published one is not fetched yet."""
        if self.prompts is not None:
            return Path(self.prompts).expanduser()
        own = None if self.official is None else self.official.path
        return own if own is not None and own.is_file() else None

    def items(self) -> list[PromptItem]:
        """The different prompts; ``UserError`` without a file."""
        path = self.path
        if path is None:
            raise UserError(missing_prompts(self))
        items = read_prompts(path, self.name)
        # DrawBench's public file has each of its 200 prompts five times; how many images a prompt
        # gets is ours to say.
        return list({item.prompt: item for item in items}.values())

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, where there is one."""
        return () if self.path is None else (self.path,)

    @property
    def needs_file(self) -> bool:
        """Whether it is neither named nor fetched yet."""
        return self.path is None

    @property
    def fetched_by(self) -> str:
        """``prompts``, where the published file is known."""
        return "" if self.published is None else "prompts"

    @property
    def num_published(self) -> int:
        """As configured."""
        return self.prompts_published


@dataclass(frozen=True, kw_only=True)
class GenEval2(PromptFile):
    """GenEval 2's prompts with their questions: what ``fetch geneval2`` got, or a copy of it."""

    prompts_sha256: str | None = GENEVAL2.sha256
    prompts_published: int = field(default=NUM_PROMPTS, metadata=ADDRESS)

    @property
    def official(self) -> PublishedFile:
        """That which ``fetch geneval2`` gets."""
        return GENEVAL2

    @property
    def fetched_by(self) -> str:
        """Of the judge that asks them."""
        return "geneval2"

    def items(self) -> list[PromptItem]:
        """All 800; ``UserError`` without a file."""
        if self.path is None:
            raise UserError(missing_prompts(self))
        return read_prompts(self.path, self.name)


def load_suite(config: SuiteConfig) -> PromptSuite:
    """All prompts of a suite; ``UserError`` where they cannot be read."""
    if config.needs_file:
        # Blank ones are enough for a dry run, and nothing else starts without the file.
        items = config.numbered({"prompt": ""} for _ in range(config.num_published))
    else:
        items = config.items()
    return PromptSuite(config.name, tuple(items))


def suite_size(config: SuiteConfig) -> tuple[str, int]:
    """Digest of all prompts of a suite, and how many they are; as ``load_suite``."""
    # A grid has thousands of addresses, and reading the prompts for each took a minute. A file that
    # is written anew meanwhile is another suite.
    stamps = tuple((path, _stamp(path)) for path in config.files)
    key = type(config), repr(config), stamps
    if key not in _SIZES:
        suite = load_suite(config)
        _SIZES[key] = suite.sha256, len(suite.items)
    return _SIZES[key]


def _stamp(path: Path) -> tuple[int, int] | None:
    if not path.is_file():
        return None
    facts = path.stat()
    return facts.st_mtime_ns, facts.st_size


def read_prompts(path: Path, suite: str) -> list[PromptItem]:
    """A prompt a line of a file; ``UserError`` where it is missing, empty or malformed.

    Args:
        path: JSON Lines with ``prompt``, or plain text.
        suite: Its name, with which ids begin.
    """
    named = f"suites.{suite}.prompts={path}"
    if not path.is_file():
        raise UserError(f"{named}: no such file")
    try:
        # Some editors begin a file with a mark, which would be drawn with the first prompt.
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{named} is not UTF-8 text ({error})") from error
    # Not splitlines: a prompt may hold a Unicode separator, and JSON does.
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        raise UserError(f"{named} is empty")
    numbers: dict[str, int] = {}
    items = []
    for position, line in enumerate(lines, start=1):
        entry = read_entry(line, f"{path} line {position}") if path.suffix == ".jsonl" else None
        prompt = line.strip() if entry is None else str(entry["prompt"])
        # Equal lines are one prompt: a file that repeats each prompt names several images of it.
        index = numbers.setdefault(prompt, len(numbers))
        items.append(PromptItem(f"{suite}/{index:05d}", prompt, entry or {"prompt": prompt}))
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
    try:
        json.dumps(entry, ensure_ascii=False).encode()
    # Of an emoji that some tool cut in two: no table takes it, which showed when all was judged.
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where} holds half a character ({error.object[error.start]!a}); write the whole one"
        ) from error
    if not isinstance(entry, dict):
        raise UserError(f"{where} is not a JSON object: {entry!r}")
    return entry
