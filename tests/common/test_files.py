"""Records that exist twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from soarbench.common import files
from soarbench.common.files import read_json, read_record, write_record


class Killed(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("before", [None, {"version": 1}])
def test_killed_between_the_two_files_the_record_does_not_say_that_it_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: dict[str, object] | None
) -> None:
    path, written = tmp_path / "record.json", []
    if before is not None:
        write_record(path, before)
    original = files.write_json

    def killed(target: Path, values: dict[str, object]) -> None:
        if written:
            raise Killed
        written.append(target)
        original(target, values)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_json", killed)
        with pytest.raises(Killed):
            write_record(path, {"version": 2})
    assert path.is_file() == (before is not None)
    assert before is None or read_record(path) == before
    # So it is written again, and no copy stays behind.
    write_record(path, {"version": 2})
    assert read_json(path) == read_json(tmp_path / ".record.json.copy") == {"version": 2}


def test_a_record_that_is_lost_comes_from_its_copy_in_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    write_record(path, {"version": 1})
    path.unlink()
    assert read_record(path) == {"version": 1}
    assert read_json(path) == {"version": 1}
    assert path.stat().st_nlink == 1
    assert sorted(tmp_path.iterdir()) == [tmp_path / ".record.json.copy", path]


def test_a_copy_is_not_written_over_a_record_that_appears_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, copyfile = tmp_path / "record.json", shutil.copyfile
    write_record(path, {"version": 1})
    path.unlink()

    def late(source: Path, target: Path) -> None:
        copyfile(source, target)
        write_record(path, {"version": 2})

    monkeypatch.setattr(shutil, "copyfile", late)
    assert read_record(path) == {"version": 1}
    assert read_record(path) == {"version": 2}
