import subprocess
import sys

import pytest

from baselines.loop import checkpoints
from baselines.loop.checkpoints import (
    MANIFEST,
    checkpoint_path,
    last_complete_checkpoint,
    mark_complete,
    new_snapshot,
    snapshot_damage,
    snapshot_manifest,
    snapshot_path,
)
from baselines.loop.disk import StorageError, write_manifest
from baselines.loop.owner import Owner, TakenOver


def checkpoint(folder, step, *, complete=True):
    path = checkpoint_path(folder, step)
    (path / "transformer").mkdir(parents=True)
    (path / "optimizer.pt").write_text("state")
    (path / "transformer" / "weights").write_text("w" * 99)
    if complete:
        write_manifest(path, path / MANIFEST)
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


def test_as_many_checkpoints_stay_as_are_kept(tmp_path):
    old = [checkpoint(tmp_path, step) for step in (7, 8, 9)]
    new = checkpoint(tmp_path, 10, complete=False)
    mark_complete(new, keep=2)
    assert [path.exists() for path in old] == [False, False, True]
    assert last_complete_checkpoint(tmp_path) == new


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


FAULTS = {
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zero": lambda path: path.write_bytes(b""),
    "junk": lambda path: path.write_bytes(b"\0" * path.stat().st_size),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("name", ["optimizer.pt", "transformer/weights", MANIFEST])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_checkpoint_goes_and_the_one_before_counts(tmp_path, caplog, name, fault):
    before, damaged = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    FAULTS[fault](damaged / name)
    assert last_complete_checkpoint(tmp_path) == before
    assert not damaged.exists()
    (line,) = caplog.messages
    assert str(damaged) in line
    # Without its mark it looks like one that was never finished.
    assert name in line or (name, fault) == (MANIFEST, "gone")


def test_the_last_good_checkpoint_stays_until_the_next_is_read_back(tmp_path, monkeypatch):
    old, new = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10, complete=False)

    def torn(folder, manifest):
        write_manifest(folder, manifest)
        FAULTS["zero"](folder / "optimizer.pt")

    monkeypatch.setattr(checkpoints, "write_manifest", torn)
    with pytest.raises(StorageError, match="0 of the 5 bytes of optimizer"):
        mark_complete(new)
    assert last_complete_checkpoint(tmp_path) == old


def test_who_was_taken_over_marks_nothing(tmp_path):
    old, new = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10, complete=False)
    late = Owner.claim(tmp_path)
    late.check()
    assert Owner.current(tmp_path) == late
    Owner.claim(tmp_path).check()
    with pytest.raises(TakenOver, match="was taken over by"):
        mark_complete(new, late.check)
    assert not (new / MANIFEST).exists()
    assert old.exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_snapshot_is_noticed_and_an_old_one_without_manifest_passes(tmp_path, fault):
    snapshot = snapshot_path(tmp_path, 50)
    snapshot.mkdir(parents=True)
    weights = snapshot / "weights"
    weights.write_text("w" * 99)
    assert snapshot_damage(snapshot) is None
    write_manifest(snapshot, snapshot_manifest(snapshot))
    assert snapshot_damage(snapshot) is None
    FAULTS[fault](weights)
    assert "weights" in str(snapshot_damage(snapshot))


def test_needs_no_framework():
    code = (
        "import sys, baselines.loop.checkpoints, baselines.config, baselines.loop.ledger; "
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_snapshot_never_lacks_its_manifest(tmp_path):
    snapshot = snapshot_path(tmp_path, 3)
    seen = []

    def allowed():
        seen.append((snapshot.is_dir(), snapshot_manifest(snapshot).is_file()))

    with new_snapshot(snapshot, allowed) as unfinished:
        (unfinished / "weights").write_text("w" * 99)
    # The last time just before it appears.
    assert seen[-1] == (False, True)
    assert snapshot_damage(snapshot) is None
    (snapshot / "weights").write_text("w" * 98)
    assert "98 of the 99 bytes" in str(snapshot_damage(snapshot))


def test_of_two_makers_of_a_snapshot_the_later_changes_nothing(tmp_path):
    snapshot = snapshot_path(tmp_path, 3)
    with new_snapshot(snapshot) as later:
        (later / "weights").write_text("later")
        with new_snapshot(snapshot) as first:
            (first / "weights").write_text("first")
    assert (snapshot / "weights").read_text() == "first"
    assert snapshot_damage(snapshot) is None
