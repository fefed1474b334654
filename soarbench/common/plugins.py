"""Folders of YAML beside the package's own: of other packages, and of the user."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from soarbench.common.errors import ConfigError, import_failure

#: Entry points of this group name a package folder of YAML, e.g. ``mine = "my_package.conf"``.
GROUP = "soarbench.conf"
OWN = Path(__file__).parents[1] / "conf"


@dataclass(frozen=True)
class ConfFolder:
    """A folder with groups of YAML, and whose it is, for messages; empty for the package's own."""

    path: Path
    source: str = ""


def conf_folders(user_folders: Iterable[str] = ()) -> tuple[ConfFolder, ...]:
    """The search path: the package's own folder, those of other packages, ``conf_dir=DIR``.

    Raises:
        ConfigError: One is no folder.
    """
    folders = [ConfFolder(OWN), *_of_packages()]
    for text in user_folders:
        path = Path(text).expanduser().resolve()
        if not path.is_dir():
            raise ConfigError(f"conf_dir={text}: no such folder")
        # Named twice, or installed and named.
        if all(path != one.path.resolve() for one in folders):
            folders.append(ConfFolder(path, f"conf_dir={text}"))
    return tuple(folders)


@functools.cache
def _of_packages() -> tuple[ConfFolder, ...]:
    folders = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        # An editable install leaves its entry point behind when its folder is moved.
        try:
            spec = importlib.util.find_spec(point.value)
        except ModuleNotFoundError:
            spec = None
        # To find a folder in it imports the package.
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"entry point {point.name!r} of group {GROUP}: {point.value!r} cannot be imported "
                f"({import_failure(error)}); mend that package, or uninstall it"
            ) from error
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(
                f"entry point {point.name!r} of group {GROUP} names {point.value!r}, which is no "
                "folder of a package that can be imported; install that package again"
            )
        folders.append(ConfFolder(Path(spec.submodule_search_locations[0]), point.value))
    return tuple(folders)
