"""What ``score`` and ``evaluate`` are asked for, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import ClassVar, Literal

from evaluators.base import JudgeConfig
from soarbench.common.errors import ConfigError
from soarbench.config.folders import search_path
from soarbench.config.keys import Options, split
from soarbench.config.registries import judges_of, require_judges, suite_named
from soarbench.config.suites import SuiteConfig


@dataclass(frozen=True, kw_only=True)
class SuiteChoice:
    """What is said of the suite: ``suites.NAME.KEY``, as in ``run``.

    Attributes:
        prompts: File of prompts; takes the place of the suite's own.
        images_per_prompt: Of each prompt; None: the suite's number.
        max_prompts: This many prompts, evenly spaced; None takes all.
        judges: Their names; none: the suite's own, as far as they can be used.
    """

    prompts: Path | None = None
    images_per_prompt: int | None = None
    max_prompts: int | None = None
    judges: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key in ("images_per_prompt", "max_prompts"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}={value} must be a whole number from 1")


@dataclass(frozen=True, kw_only=True)
class SuiteOptions(Options):
    """What ``score`` and ``evaluate`` both take.

    Attributes:
        suite: Name of the suite.
        output: Folder of the results.
        suites: What is changed of it.
    """

    renamed: ClassVar[Mapping[str, str]] = {
        key.name: f"suites.NAME.{key.name}" for key in fields(SuiteChoice)
    }
    suite: str
    output: Path | None = None
    suites: Mapping[str, SuiteChoice] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.suites:
            if name != self.suite:
                raise ValueError(f"suites.{name}: the suite is suite={self.suite}")

    @property
    def choice(self) -> SuiteChoice:
        """What is said of the suite."""
        return self.suites.get(self.suite, SuiteChoice())

    def judges(self, words: Sequence[str]) -> dict[str, JudgeConfig]:
        """The judges by name, as ``words``, settings of judges as in ``run``, have them.

        ``ConfigError`` where there is none of a name, or one is configured and not used.
        """
        suite = suite_named(self.suite, search_path(words))
        names, judges = self.choice.judges or suite.judges, judges_of(suite.judges_of, words)
        require_judges(names, judges)
        for word in words:
            group, _, rest = split(word).key.partition(".")
            name = rest.partition(".")[0]
            if group == "judge" and name not in names:
                raise ConfigError(
                    f"judge.{name} is configured, but not among suites.{self.suite}.judges="
                    f"{list(names)}"
                )
        return {name: judges[name] for name in names}


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(SuiteOptions):
    """What ``score`` takes.

    Attributes:
        images: Folder or ``.jsonl`` file.
        coverage: ``exact``, or ``found``: judge the prompts that are there, each with as many
            images as the others.
    """

    example: ClassVar[str] = "score suite=geneval images=DIR"
    settings: ClassVar[tuple[str, ...] | None] = ("judge", "conf_dir")
    images: Path
    coverage: Literal["exact", "found"] = "exact"


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(SuiteOptions):
    """What ``evaluate`` takes beside the model's settings of a run.

    Attributes:
        model: A configuration's name, a directory, or a hub id; None: whose judges the suite's are.
    """

    example: ClassVar[str] = "evaluate model=lab suite=lab_geneval"
    settings: ClassVar[tuple[str, ...] | None] = (
        *("model", "sampling", "judge", "device", "output_dir", "conf_dir"),
    )
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Images to be judged; what ``ScoreOptions`` and ``SuiteChoice`` say, with defaults filled in.

    Attributes:
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


def score_request(options: ScoreOptions, words: Sequence[str]) -> ScoreRequest:
    """What ``score`` does, by its own options and ``words``, settings of judges.

    ``ConfigError`` where the suite or a judge does not exist, or a value cannot work.
    """
    choice = options.choice
    if choice.max_prompts is not None:
        raise ConfigError(
            f"suites.{options.suite}.max_prompts: images that are there are all judged; leave it "
            "out"
        )
    images = options.images.resolve()
    # Of a folder the whole name: sd3.5 and sd3.6 are two, and had one place for their scores.
    name = images.stem if images.is_file() else images.name
    return ScoreRequest(
        suite=suite_named(options.suite, search_path(words)),
        images=options.images,
        output=options.output or Path("runs/scores") / options.suite / name,
        prompts=choice.prompts,
        images_per_prompt=choice.images_per_prompt,
        coverage=options.coverage,
        judges=options.judges(words),
        is_chosen=bool(choice.judges),
    )
