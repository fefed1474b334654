"""Judges and suites by their names in ``conf/judge`` and ``conf/suite``, outside of a grid."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from evaluators.base import JudgeConfig
from soarbench.common.errors import ConfigError
from soarbench.common.plugins import conf_folders
from soarbench.common.strict import convert, did_you_mean
from soarbench.config.compose import compose_choices, options, registered
from soarbench.config.suites import SuiteConfig

Judges = dict[str, JudgeConfig]


def every_judge() -> Judges:
    """Every judge there is, as its YAML says."""
    return _judges(registered("judge", conf_folders()))


def require_judges(names: Iterable[str], judges: Collection[str]) -> None:
    """Refuse names of judges that there are not.

    Raises:
        ConfigError: Names the nearest.
    """
    for name in names:
        if name not in judges:
            raise ConfigError(f"there is no judge {name!r}: {did_you_mean(name, judges)}")


def judges_of(
    model: str, changes: Mapping[str, Mapping[str, object]] = MappingProxyType({})
) -> Judges:
    """Every judge by the name that it has where a model is judged.

    Args:
        model: Name of its configuration, which replaces some judges by its own.
        changes: Values that are changed, by judge and key.

    Raises:
        ConfigError: A judge or key is unknown, or a value cannot work.
    """
    config = compose_choices([_any_grid(), f"model={model}"])
    values = config.plain("judge")
    assert isinstance(values, dict)
    require_judges(changes, values)
    return _judges({name: {**entry, **changes.get(name, {})} for name, entry in values.items()})


def _judges(values: object) -> Judges:
    judges = convert(Judges, values, "judge")
    assert isinstance(judges, dict)
    return judges


def suite_named(name: str) -> SuiteConfig:
    """A suite.

    Raises:
        ConfigError: There is none of that name.
    """
    known = options("suite")
    if name not in known:
        raise ConfigError(f"suite={name!r} does not exist: {did_you_mean(name, known)}")
    # Under a name of its own: the grid's task has suites too.
    config = compose_choices([_any_grid(), f"+suite@asked={name}"])
    suite = convert(SuiteConfig, config.plain("asked"), f"suite.{name}")
    assert isinstance(suite, SuiteConfig)
    return suite


def _any_grid() -> str:
    """Sizes refer to a budget, which a composition has; which grid it is of does not matter."""
    return f"grid={options('grid')[0]}"
