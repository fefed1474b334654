"""Which YAML there is: the files of all ``conf`` folders, by group and name."""

from __future__ import annotations

from collections.abc import Iterable

from soarbench.common.errors import ConfigError
from soarbench.common.plugins import ConfFolder, conf_folders
from soarbench.common.strict import did_you_mean
from soarbench.config.grammar import value_of
from soarbench.config.keys import split

CONF_DIR = "conf_dir"
Folders = tuple[ConfFolder, ...]


def sources(group: str, folders: Folders | None = None) -> dict[str, str]:
    """Names of a group's YAML files, and whose each is; empty for the package's own."""
    named: dict[str, str] = {}
    for folder in conf_folders() if folders is None else folders:
        root = folder.path / group
        for path in root.rglob("*.yaml"):
            # The first folder wins, as in Hydra: nobody changes a published protocol by accident.
            named.setdefault(str(path.relative_to(root).with_suffix("")), folder.source)
    return dict(sorted(named.items()))


def options(group: str, folders: Folders | None = None) -> list[str]:
    """Names of a group's YAML files."""
    return list(sources(group, folders))


def search_path(words: Iterable[str]) -> Folders:
    """The folders of YAML that a command line can choose from: ``conf_dir=DIR`` adds one."""
    parted = map(split, words)
    return conf_folders(str(value_of(word, str)) for word in parted if word.key == CONF_DIR)


def require_option(group: str, name: str, folders: Folders) -> None:
    """``ConfigError`` where a group has no such YAML; says which foreign ones there are."""
    known = sources(group, folders)
    if name not in known:
        hint = did_you_mean(name, known)
        # Of a list of all names the origin of some is one thing too many.
        meant = {n: source for n, source in known.items() if source and repr(n) in hint}
        foreign = "".join(f"; {n} is of {source}" for n, source in meant.items())
        raise ConfigError(f"{group}={name!r} does not exist: {hint}{foreign}")
