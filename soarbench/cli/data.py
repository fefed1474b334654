"""``python -m soarbench data score|filter|check``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from soarbench.common.errors import ConfigError
from soarbench.common.strict import did_you_mean
from soarbench.config import folders
from soarbench.config.keys import Options, split
from soarbench.data.config import ImageDataConfig, require_finite
from soarbench.grid.expand import Grid, expand

# SD3.5's, whose buckets and judges a set of anybody's is for, until the user says otherwise.
DEFAULTS = ("grid=main_table", "method=base", "model=sd35_medium", "data=jsonl")
_CHOSEN = ("model", "data")


@dataclass(frozen=True, kw_only=True)
class ScoreSetOptions(Options):
    """What ``data score`` takes beside the settings of a run.

    Attributes:
        judge: Its name.
        output: JSON Lines file that gets the scores.
    """

    example: ClassVar[str] = "data score data.path=rows.jsonl judge=aesthetic output=scored.jsonl"
    judge: str
    output: Path


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Options):
    """What ``data check`` takes beside the settings of a run.

    Attributes:
        output: JSON Lines file of what is wrong; null: below ``runs/data_check``.
        near: Whether to look for near duplicates, too.
    """

    output: Path | None = None
    near: bool = False


@dataclass(frozen=True, kw_only=True)
class FilterOptions(Options):
    """What ``data filter`` takes.

    Attributes:
        input: A scored set.
        output: JSON Lines file of the rows that are kept.
        thresholds: Each score's least value.
    """

    example: ClassVar[str] = (
        "data filter input=scored.jsonl output=kept.jsonl thresholds.aesthetic=6.8"
    )
    settings: ClassVar[tuple[str, ...] | None] = ()
    input: Path
    output: Path
    thresholds: Mapping[str, float]

    def __post_init__(self) -> None:
        require_finite(self.thresholds)
        if not self.thresholds:
            raise ValueError(
                "thresholds={}: keeps every row; name a score, thresholds.SCORE=NUMBER"
            )


def filter_rows(options: FilterOptions, _words: Sequence[str], *, console: Console) -> int:
    """Keep the rows at and above the thresholds; ``UserError`` where nothing is kept."""
    from soarbench.data.filter_set import filter_set

    return filter_set(options.input, options.output, options.thresholds, console)


def run_words(_options: object, words: Sequence[str]) -> list[str]:
    """The settings that say which set, which judges and which suites; nothing is trained."""
    own = {word.key: word.text for word in map(split, DEFAULTS)}
    chosen = own | {word.key: word.text for word in map(split, words) if word.key in _CHOSEN}
    protocols = folders.options("protocol", folders.search_path(words))
    # Every task that the model is judged in: an image of any of their suites is in no training set.
    tasks = [name.partition("/")[2] for name in protocols if name.startswith(chosen["model"] + "/")]
    defaults = [f"{group}={name}" for group, name in chosen.items()]
    return [*defaults, f"grid.tasks=[{','.join(tasks)}]", *words]


def _grid(words: Sequence[str], action: str) -> tuple[Grid, ImageDataConfig]:
    grid = expand(run_words(None, words))
    config = grid.settings.data.with_content()
    if not isinstance(config, ImageDataConfig) or config.path is None:
        raise ConfigError(
            f"data.path= is missing, e.g. data {action} data.path=FILE (data=jsonl), or "
            "data=datasets or data=webdataset with data.path=DIR"
        )
    return grid, config


def score(options: ScoreSetOptions, words: Sequence[str], *, console: Console) -> int:
    """Score a set by a judge; ``UserError`` where either cannot be used."""
    from soarbench.jobs.score_set import score_set

    grid, config = _grid(words, "score")
    judges, name = grid.settings.judge, options.judge
    if name not in judges:
        raise ConfigError(f"judge={name!r} does not exist: {did_you_mean(name, judges)}")
    return score_set(config, name, judges[name], options.output, console)


def check(options: CheckOptions, words: Sequence[str], *, console: Console) -> int:
    """Look for what is wrong with a set. -> 1 when something is."""
    from soarbench.data.check import SetCheck, check_set
    from soarbench.evaluation.suites import load_suite

    grid, config = _grid(words, "check")
    suites = [load_suite(s) for s in grid.cells[0].suites.values() if not s.needs_file]
    unknown = tuple(suite.name for suite in grid.without_prompts)
    set_check = SetCheck(config, grid.settings.model.resolution, suites, options.near)
    default = Path("runs/data_check") / f"{Path(str(config.path)).stem}.jsonl"
    return check_set(set_check, options.output or default, unknown, console)
