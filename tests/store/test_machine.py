"""Samples of how busy a machine is."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from soarbench.store.machine import read_samples, sampling


def test_a_block_is_sampled_and_torn_lines_are_left_out(tmp_path: Path) -> None:
    path, start = tmp_path / "machine.jsonl", time.time()
    with sampling(path, gpu=None, seconds=0.02):
        time.sleep(0.1)
    first = read_samples(path)
    assert len(first) >= 2
    assert start <= first[0].time < first[-1].time <= time.time()
    assert 0 < first[-1].values["system_memory_usage_percentage"] <= 100
    assert first[-1].values["process_memory_megabytes"] > 1
    with path.open("a") as stream:
        stream.write('\n{"time": 1, "val')
    with sampling(path, gpu=None):
        pass
    # What was seen before stays, and a line that a kill tore hides no other.
    assert read_samples(path)[:-1] == first


def test_a_disk_that_takes_nothing_ends_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), sampling(tmp_path / "none" / "m.jsonl", gpu=None):
        pass
    assert "is no longer written" in caplog.text
