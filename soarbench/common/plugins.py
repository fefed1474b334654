"""Where components come from: folders of YAML, ours, those of installed packages and the user's.

A package adds components without a change here: an entry point of the group ``soarbench.conf``
names a package folder that is laid out as ``soarbench/conf`` is, and the YAML in it names classes
of its own. The laboratory is the first such package.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from soarbench.common.errors import ConfigError

GROUP = "soarbench.conf"
CONF = Path(__file__).parents[1] / "conf"


def conf_folders(conf_dirs: Sequence[str] = ()) -> tuple[Path, ...]:
    """Every folder of YAML; of two files of the same name the first folder's would be taken.

    Args:
        conf_dirs: The user's own folders, as ``conf_dir=DIR`` gives them.

    Returns:
        Absolute paths: ours first, then those of installed packages, then the user's.

    Raises:
        ConfigError: A folder does not exist.
    """
    own = []
    for name in conf_dirs:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"conf_dir={name}: no such folder; give one that holds method/*.yaml")
        own.append(folder.resolve())
    return tuple(dict.fromkeys((CONF, *_installed(), *own)))


@functools.cache
def _installed() -> tuple[Path, ...]:
    """Folders of the entry points, in order of their names; they do not change in a process."""
    entries = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name)
    return tuple(_package_folder(entry) for entry in entries)


def _package_folder(entry: importlib.metadata.EntryPoint) -> Path:
    """The folder that an entry point names.

    Raises:
        ConfigError: It names none.
    """
    try:
        spec = importlib.util.find_spec(entry.value)
    except ImportError:
        spec = None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not places:
        package = entry.dist.name if entry.dist is not None else "a package"
        raise ConfigError(
            f"{package} brings components by the entry point {entry.name}={entry.value}, which is "
            "no package folder; reinstall or remove it"
        )
    return Path(places[0]).resolve()


def component_files(group: str, folders: Sequence[Path]) -> dict[str, Path]:
    """The YAML files of a group, by the names that choose them, sorted.

    Raises:
        ConfigError: Two folders have a file of the same name, so that one would be hidden.
    """
    files: dict[str, Path] = {}
    for folder in folders:
        for path in (folder / group).rglob("*.yaml"):
            name = path.relative_to(folder / group).with_suffix("").as_posix()
            if name in files:
                raise ConfigError(
                    f"{group}={name} is defined twice, by {files[name]} and {path}: rename one"
                )
            files[name] = path
    return dict(sorted(files.items()))
