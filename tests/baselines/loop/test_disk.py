import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from baselines.loop.disk import (
    StorageError,
    atomic_directory,
    damage,
    remove_partials,
    write_manifest,
    write_whole,
    writing,
)
from baselines.loop.owner import TakenOver


def test_a_directory_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "snapshots" / "step-50"

    def write_half():
        with atomic_directory(target) as unfinished:
            (unfinished / "weights").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert not target.exists()
    with atomic_directory(target) as unfinished:
        assert list(unfinished.iterdir()) == []
        (unfinished / "weights").write_text("whole")
    assert (target / "weights").read_text() == "whole"
    with atomic_directory(target) as late:
        (late / "weights").write_text("late")
    assert (target / "weights").read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


def refused():
    raise TakenOver


def test_a_directory_that_may_not_appear_does_not(tmp_path):
    with (
        pytest.raises(TakenOver),
        atomic_directory(tmp_path / "a", refused),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_both_end_and_the_last_one_wins(tmp_path):
    path = tmp_path / "a.json"

    def first(partial):
        partial.write_text("first")
        write_whole(path, lambda other: other.write_text("second"))
        assert path.read_text() == "second"

    write_whole(path, first)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, pathlib, signal, sys
from baselines.loop.disk import atomic_directory, write_whole
folder = pathlib.Path(sys.argv[1])
def write(partial):
    partial.write_text("half")
    with atomic_directory(folder / "step-50") as unfinished:
        (unfinished / "weights").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
write_whole(folder / "a.json", write)
"""


def test_what_a_killed_process_was_writing_goes_and_what_others_write_stays(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2
    elsewhere = tmp_path / ".b.json.other_node-1-0.partial"
    elsewhere.touch()

    def write(partial):
        partial.write_text("whole")
        remove_partials(tmp_path)

    write_whole(tmp_path / "a.json", write)
    assert sorted(path.name for path in tmp_path.iterdir()) == [elsewhere.name, "a.json"]
    os.utime(elsewhere, (0, 0))
    remove_partials(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.fixture
def limited():
    """No file may be larger than 64 KiB, as on a disk that is full."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


WRITERS = {
    "python": lambda path: path.write_text("x" * 10**6),
    "torch": lambda path: torch.save(torch.zeros(10**6), path),
    "safetensors": lambda path: save_file({"x": torch.zeros(10**6)}, path),
}


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_takes_no_more_is_one_line_whatever_library_writes(tmp_path, name):
    path = tmp_path / "weights"
    with pytest.raises(StorageError, match=rf"while writing {path}; make room") as caught:
        write_whole(path, WRITERS[name])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_faults_of_the_disk_are_named_and_others_pass(tmp_path, number):
    def fails(error):
        with writing(tmp_path):
            raise error

    with pytest.raises(StorageError, match=f"{tmp_path}"):
        fails(OSError(number, os.strerror(number)))
    with pytest.raises(ValueError, match="mine"):
        fails(ValueError("mine"))


def test_a_manifest_sees_the_ends_of_a_file_that_is_too_long_to_read(tmp_path, monkeypatch):
    monkeypatch.setattr("baselines.loop.disk._END", 10)
    folder, manifest = tmp_path / "a", tmp_path / "m.json"
    folder.mkdir()
    path = folder / "weights"
    path.write_bytes(bytes(range(100)))
    write_manifest(folder, manifest)
    assert damage(folder, manifest) is None
    for place, is_seen in ((0, True), (9, True), (50, False), (90, True), (99, True)):
        content = bytearray(range(100))
        content[place] = 255
        path.write_bytes(content)
        assert (damage(folder, manifest) is not None) == is_seen
    Path(manifest).write_text("null")
    assert "no readable m.json" in str(damage(folder, manifest))
