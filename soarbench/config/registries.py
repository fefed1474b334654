"""Judges and suites by their names in ``conf/judge`` and ``conf/suite``, outside of a grid."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from evaluators.base import JudgeConfig
from soarbench.common.errors import ConfigError
from soarbench.common.plugins import conf_folders
from soarbench.common.strict import convert, did_you_mean
from soarbench.config.compose import (
    Folders,
    apply,
    compose_choices,
    parse_overrides,
    registered,
    require_option,
)
from soarbench.config.suites import SuiteConfig

Judges = dict[str, JudgeConfig]


def every_judge(folders: Folders | None = None) -> Judges:
    """Every judge there is, as its YAML says."""
    return _judges(registered("judge", folders or conf_folders()))


def require_judges(names: Iterable[str], judges: Collection[str]) -> None:
    """Refuse names of judges that there are not.

    Raises:
        ConfigError: Names the nearest.
    """
    for name in names:
        if name not in judges:
            raise ConfigError(f"there is no judge {name!r}: {did_you_mean(name, judges)}")


def judges_of(model: str, words: Sequence[str] = ()) -> Judges:
    """Every judge by the name that it has where a model is judged.

    Args:
        model: Name of its configuration, which replaces some judges by its own.
        words: ``judge.NAME.KEY=VALUE``, and ``conf_dir=DIR``; others are passed over.

    Raises:
        ConfigError: A judge or key is unknown, or a value cannot work.
    """
    overrides = parse_overrides(words)
    composition = compose_choices([f"model={model}"], overrides.folders)
    apply([word for word in overrides.values if word.key.startswith("judge.")], [composition])
    return _judges(composition.plain("judge"))


def _judges(values: object) -> Judges:
    judges = convert(Judges, values, "judge")
    assert isinstance(judges, dict)
    return judges


def suite_named(name: str, folders: Folders | None = None) -> SuiteConfig:
    """A suite.

    Raises:
        ConfigError: There is none of that name.
    """
    require_option("suite", name, folders or conf_folders())
    # Under a name of its own: the grid's task has suites too.
    config = compose_choices([f"+suite@asked={name}"], folders)
    suite = convert(SuiteConfig, config.plain("asked"), f"suite.{name}")
    assert isinstance(suite, SuiteConfig)
    return suite
