"""What ``score`` and ``evaluate`` are asked for: their command lines, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluators.base import JudgeConfig
from soarbench.common.errors import ConfigError
from soarbench.config.registries import judges_of, require_judges, suite_named
from soarbench.config.suites import SuiteConfig

_KEYS = ("suite", "images", "output", "prompts", "images_per_prompt", "coverage", "judges")


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Images to be judged.

    Attributes:
        suite: Its prompts and judges.
        images: Folder or ``.jsonl`` file.
        output: Folder of the results.
        prompts: File of prompts; takes the place of the suite's own.
        images_per_prompt: Wanted of each prompt; None: the suite's number.
        coverage: ``exact``, or ``found``: judge what is there, whatever is missing.
        judges: Their configurations by name, in order.
        is_chosen: Whether the user named the judges; then none may be left out.
    """

    suite: SuiteConfig
    images: Path
    output: Path
    prompts: Path | None
    images_per_prompt: int | None
    coverage: str
    judges: Mapping[str, JudgeConfig]
    is_chosen: bool


@dataclass(frozen=True)
class Words:
    """A command line, sorted.

    Attributes:
        texts: Values of the command's own keys.
        judges: Values of ``judge.NAME.KEY``, by name and key.
        others: Words that are passed on as they are.
    """

    texts: Mapping[str, str]
    judges: Mapping[str, Mapping[str, object]]
    others: tuple[str, ...]

    def path(self, key: str) -> Path | None:
        """The value of a key as a path; None where it is not given."""
        return Path(self.texts[key]).expanduser() if key in self.texts else None

    def count(self, key: str) -> int | None:
        """The value of a key as a number of things; None where it is not given.

        Raises:
            ConfigError: It is not a whole number from 1.
        """
        text = self.texts.get(key)
        if text is not None and (not text.isdecimal() or int(text) < 1):
            raise ConfigError(f"{key}={text!r} must be a whole number from 1")
        return int(text) if text else None


def sort_words(words: Sequence[str], known: Sequence[str], passed_on: Sequence[str] = ()) -> Words:
    """Sort the words of a command line.

    Args:
        words: ``key=value``.
        known: The command's own keys.
        passed_on: What keys begin with that are left to others, e.g. ``model.``.

    Raises:
        ConfigError: A word is none of these.
    """
    texts: dict[str, str] = {}
    judges: dict[str, dict[str, object]] = {}
    others: list[str] = []
    for word in words:
        key, sign, value = word.partition("=")
        parts = key.split(".")
        if sign and len(parts) == 3 and parts[0] == "judge":
            judges.setdefault(parts[1], {})[parts[2]] = _plain_value(value)
        elif sign and key in known:
            texts[key] = value
        elif sign and key.startswith(tuple(passed_on)):
            others.append(word)
        else:
            wanted = [f"{name}=..." for name in known]
            wanted += [
                f"{name}KEY=..." if name.endswith(".") else f"{name}=..." for name in passed_on
            ]
            raise ConfigError(
                f"{word!r} is not understood here: this command takes {', '.join(wanted)} and "
                "judge.NAME.KEY=..."
            )
    return Words(texts, judges, tuple(others))


def _plain_value(text: str) -> object:
    """A number, true, false or null as such; anything else is text."""
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, (dict, list)) else value


def chosen_judges(words: Words, suite: SuiteConfig) -> tuple[dict[str, JudgeConfig], bool]:
    """The judges by name, and whether the user named them.

    Raises:
        ConfigError: There is none of that name, or it is configured and not used.
    """
    chosen = words.texts.get("judges", "").strip("[] ")
    names = [name.strip() for name in chosen.split(",")] if chosen else list(suite.judges)
    judges = judges_of(suite.judges_of, words.judges)
    require_judges(names, judges)
    for name in words.judges:
        if name not in names:
            raise ConfigError(f"judge.{name} is configured, but not among judges={names}")
    return {name: judges[name] for name in names}, bool(chosen)


def read_request(words: Sequence[str]) -> ScoreRequest:
    """Read the command line of ``score``.

    Raises:
        ConfigError: A word is unknown or its value cannot work.
    """
    found = sort_words(words, _KEYS)
    for key in ("suite", "images"):
        if not found.texts.get(key):
            raise ConfigError(f"{key}= is missing, e.g. score suite=geneval images=DIR")
    suite, images = suite_named(found.texts["suite"]), Path(found.texts["images"]).expanduser()
    judges, is_chosen = chosen_judges(found, suite)
    coverage = found.texts.get("coverage", "exact")
    if coverage not in ("exact", "found"):
        raise ConfigError(f"coverage={coverage!r} must be one of exact, found")
    return ScoreRequest(
        suite=suite,
        images=images,
        output=found.path("output") or Path("runs/scores") / suite.name / images.resolve().stem,
        prompts=found.path("prompts"),
        images_per_prompt=found.count("images_per_prompt"),
        coverage=coverage,
        judges=judges,
        is_chosen=is_chosen,
    )
