import subprocess
import sys

import pytest

from baselines.loop.checkpoints import (
    COMPLETE,
    atomic_directory,
    checkpoint_path,
    last_complete_checkpoint,
    mark_complete,
    snapshot_path,
)


def checkpoint(folder, step, *, complete=True):
    path = checkpoint_path(folder, step)
    path.mkdir(parents=True)
    (path / "optimizer.pt").write_text("state")
    if complete:
        (path / COMPLETE).touch()
    return path


def test_the_newest_finished_checkpoint_counts_and_unfinished_ones_go(tmp_path):
    checkpoint(tmp_path, 90)
    newest = checkpoint(tmp_path, 100)
    unfinished = checkpoint(tmp_path, 110, complete=False)
    assert last_complete_checkpoint(tmp_path) == newest
    assert not unfinished.exists()


def test_no_checkpoint_and_no_folder_give_none(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "missing") is None


def test_other_directories_are_left_alone(tmp_path):
    mine = tmp_path / "checkpoint-of-mine"
    mine.mkdir()
    assert last_complete_checkpoint(tmp_path) is None
    assert mine.exists()


def test_marking_removes_older_checkpoints_only(tmp_path):
    old, new = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10, complete=False)
    mark_complete(new)
    assert not old.exists()
    assert last_complete_checkpoint(tmp_path) == new


def test_a_directory_appears_only_when_it_is_whole(tmp_path):
    target = snapshot_path(tmp_path, 50)

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


def test_needs_no_framework():
    code = (
        "import sys, baselines.loop.checkpoints, baselines.config, baselines.loop.ledger; "
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
