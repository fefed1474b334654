"""Judges and suites by their names in ``conf/judge`` and ``conf/suite``, outside of a grid."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import cast

from evaluators.base import JudgeConfig
from soarbench.common.errors import ConfigError
from soarbench.common.plugins import conf_folders
from soarbench.common.strict import convert, did_you_mean
from soarbench.config.compose import apply
from soarbench.config.composition import compose_choices, registered
from soarbench.config.folders import Folders, require_option
from soarbench.config.overrides import parse_overrides
from soarbench.config.suites import SuiteConfig

Judges = dict[str, JudgeConfig]


def every_judge(folders: Folders | None = None) -> Judges:
    """Every judge there is, as its YAML says."""
    return cast(Judges, convert(Judges, registered("judge", folders or conf_folders()), "judge"))


def require_judges(names: Iterable[str], judges: Collection[str]) -> None:
    """``ConfigError`` that names the nearest where there is no judge of a name."""
    for name in names:
        if name not in judges:
            raise ConfigError(f"there is no judge {name!r}: {did_you_mean(name, judges)}")


def judges_of(model: str, words: Sequence[str] = ()) -> Judges:
    """Every judge by the name that it has where a model is judged.

    Args:
        model: Name of its configuration, which replaces some judges by its own.
        words: ``judge.NAME.KEY=VALUE``, and ``conf_dir=DIR``; others are passed over.
    """
    overrides = parse_overrides(words)
    composition = compose_choices([f"model={model}"], overrides.folders)
    apply([word for word in overrides.values if word.key.startswith("judge.")], [composition])
    return cast(Judges, convert(Judges, composition.plain("judge"), "judge"))


def suite_named(name: str, folders: Folders | None = None) -> SuiteConfig:
    """A suite; ``ConfigError`` where there is none of that name."""
    require_option("suite", name, folders or conf_folders())
    # Under a name of its own: the default grid's task has suites too.
    config = compose_choices([f"+suite@asked={name}"], folders)
    return cast(SuiteConfig, convert(SuiteConfig, config.plain("asked"), f"suite.{name}"))
