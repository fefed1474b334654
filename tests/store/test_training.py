"""A training that is over."""

from __future__ import annotations

from pathlib import Path

import pytest

from baselines.loop.checkpoints import checkpoint_path
from soarbench.store import training
from soarbench.store.training import TrainingFolder, TrainingLog


class Killed(Exception):
    pass


def test_no_checkpoint_outlives_the_end_however_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = TrainingFolder(tmp_path)
    with TrainingLog(folder) as log:
        log.append(1, {"train/loss": 0.5})
    checkpoint_path(folder.root, 1).mkdir()

    def killed(_: TrainingFolder) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_training_table", killed)
        with pytest.raises(Killed):
            folder.finish({"seconds": 1.0})
    # Whoever comes next mends what is lacking, and nobody comes once nothing is.
    assert folder.was_whole
    assert not folder.is_whole
    assert folder.fault([]) is None
    assert not checkpoint_path(folder.root, 1).exists()
