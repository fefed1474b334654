"""Which YAML there is: the files of all ``conf`` folders, by group and name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from soarbench.common.errors import ConfigError
from soarbench.common.plugins import OWN, ConfFolder, conf_folders
from soarbench.common.strict import did_you_mean
from soarbench.config.grammar import value_of
from soarbench.config.keys import split

CONF_DIR = "conf_dir"
#: Their YAML sets keys of other groups, too: of ``optim`` and ``training``.
_GLOBAL = ("method", "model", "protocol", "recipe")
_PACKAGE = "# @package _global_"
#: What the parts of a recipe's path name.
_RECIPE = ("model", "method", "task")
Folders = tuple[ConfFolder, ...]


def sources(group: str, folders: Folders | None = None) -> dict[str, str]:
    """Names of a group's YAML files, and whose each is; empty for the package's own."""
    named: dict[str, str] = {}
    for folder in conf_folders() if folders is None else folders:
        root = folder.path / group
        for path in root.rglob("*.yaml"):
            # The first folder wins, as in Hydra: nobody changes a published protocol by accident.
            # ``search_path`` refuses the other.
            named.setdefault(str(path.relative_to(root).with_suffix("")), folder.source)
    return dict(sorted(named.items()))


def options(group: str, folders: Folders | None = None) -> list[str]:
    """Names of a group's YAML files."""
    return list(sources(group, folders))


def search_path(words: Iterable[str]) -> Folders:
    """The folders of YAML that a command line can choose from: ``conf_dir=DIR`` adds one.

    Raises:
        ConfigError: One is no folder, or holds YAML that would never be read.
    """
    parted = map(split, words)
    folders = conf_folders(str(value_of(word, str)) for word in parted if word.key == CONF_DIR)
    for index, folder in enumerate(folders[1:], start=1):
        files = _files(folder)
        if not files and folder.source.startswith(CONF_DIR):
            raise ConfigError(
                f"{folder.source}: holds no YAML in a folder of a kind; name the folder in which "
                "method/, judge/, grid/ ... lie"
            )
        for file in files:
            _refuse_shadowed(file, folder, folders[:index])
            if file.parts[0] in _GLOBAL:
                _refuse_without_package(file, folder)
            if file.parts[0] == "recipe":
                _refuse_unread_recipe(file, folder, folders)
    return folders


def _files(folder: ConfFolder) -> list[Path]:
    """The YAML of a folder, group first."""
    groups = sorted(path.name for path in OWN.iterdir() if path.is_dir())
    files = (path for group in groups for path in sorted((folder.path / group).rglob("*.yaml")))
    return [path.relative_to(folder.path) for path in files]


def _refuse_shadowed(file: Path, folder: ConfFolder, earlier: Folders) -> None:
    """A copy that somebody edits would be read by nobody, and its changes do nothing."""
    for other in earlier:
        if (other.path / file).is_file():
            raise ConfigError(
                f"{file.as_posix()} of {folder.source} has the name of "
                f"{other.source or 'soarbench'}'s own, which is used; rename it"
            )


def _refuse_without_package(file: Path, folder: ConfFolder) -> None:
    """Without it ``optim`` of a method's YAML is ``method.optim``, and the method has none."""
    text = (folder.path / file).read_text(encoding="utf-8", errors="replace")
    if "@package" not in text:
        raise ConfigError(
            f"{file.as_posix()} of {folder.source}: its first line must be {_PACKAGE!r}, so that "
            "its keys are those of a run; add it"
        )


def _refuse_unread_recipe(file: Path, folder: ConfFolder, folders: Folders) -> None:
    """A recipe is found by its path alone, which may be misspelt."""
    for group, name in zip(_RECIPE, file.with_suffix("").parts[1:], strict=False):
        known = options(group, folders)
        if name not in known:
            raise ConfigError(
                f"{file.as_posix()} of {folder.source}: there is no {group} {name!r}, so that "
                f"nobody reads it; {did_you_mean(name, known)}"
            )


def require_option(group: str, name: str, folders: Folders) -> None:
    """``ConfigError`` where a group has no such YAML; says which foreign ones there are."""
    known = sources(group, folders)
    if name not in known:
        hint = did_you_mean(name, known)
        # Of a list of all names the origin of some is one thing too many.
        meant = {n: source for n, source in known.items() if source and repr(n) in hint}
        foreign = "".join(f"; {n} is of {source}" for n, source in meant.items())
        raise ConfigError(f"{group}={name!r} does not exist: {hint}{foreign}")
