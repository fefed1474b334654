"""Where components come from."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import pytest

from soarbench.common import plugins
from soarbench.common.errors import ConfigError
from soarbench.common.plugins import CONF, component_files, conf_folders


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[importlib.metadata.EntryPoint]]:
    """The entry points of installed packages, empty until a test adds some."""
    entries: list[importlib.metadata.EntryPoint] = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: entries)
    plugins._installed.cache_clear()
    yield entries
    plugins._installed.cache_clear()


def package(folder: Path, name: str, yaml: str) -> Path:
    path = folder / name / "conf" / f"{yaml}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("method: null\n")
    return folder / name / "conf"


def test_folders_are_ours_then_of_packages_then_the_users(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    entry_points: list[importlib.metadata.EntryPoint],
) -> None:
    theirs = package(tmp_path, "their_package", "method/nft")
    mine = package(tmp_path, "mine", "method/my_own")
    monkeypatch.syspath_prepend(tmp_path)
    entry_points.append(
        importlib.metadata.EntryPoint("theirs", "their_package.conf", plugins.GROUP)
    )
    folders = conf_folders([str(mine)])
    assert folders == (CONF, theirs, mine)
    assert {"nft", "my_own", "soar"} <= set(component_files("method", folders))
    assert component_files("no_such_group", folders) == {}


@pytest.mark.usefixtures("entry_points")
def test_a_name_that_two_folders_define_is_refused(tmp_path: Path) -> None:
    folders = conf_folders([str(package(tmp_path, "mine", "method/soar"))])
    with pytest.raises(ConfigError, match=r"method=soar is defined twice, by .* rename one"):
        component_files("method", folders)


def test_what_is_no_folder_is_named(entry_points: list[importlib.metadata.EntryPoint]) -> None:
    with pytest.raises(ConfigError, match=r"conf_dir=nowhere: no such folder"):
        conf_folders(["nowhere"])
    for value in ("no.such.package", "math"):
        entry_points[:] = [importlib.metadata.EntryPoint("broken", value, plugins.GROUP)]
        with pytest.raises(ConfigError, match=rf"broken={value}, which is no package folder"):
            conf_folders()
