"""Two processes (gloo) end with the weights that one process ends with."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.baselines.two_processes import CASES, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both processes ended with: ``[case][rank]``."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.baselines.two_processes", str(folder)],
            cwd=ROOT,
            env={**os.environ, **shared, "OMP_NUM_THREADS": "1", "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    for process in processes:
        _, errors = process.communicate(timeout=540)
        assert process.returncode == 0, errors
    return {
        case: [torch.load(folder / f"{case}-{rank}.pt", weights_only=True) for rank in (0, 1)]
        for case in CASES
    }


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(found, case, tmp_path):
    weights, summary, logs, seen = train(case, tmp_path)
    first, second = found[case]
    for name, value in weights.items():
        torch.testing.assert_close(first["weights"][name], value, rtol=0, atol=1e-5)
        assert torch.equal(first["weights"][name], second["weights"][name])
    assert second["loss"] == {}, "the second process logged"
    assert first["loss"].keys() == logs.points.keys()
    for step, loss in first["loss"].items():
        assert loss == pytest.approx(logs.points[step]["train/loss"], abs=1e-5)
    for rank in (first, second):
        assert rank["images"] == summary.images_seen
        assert rank["reward_calls"] == summary.reward_calls
        assert rank["forward_equivalents"] == summary.forward_equivalents
    assert sorted(first["seen"] + second["seen"]) == sorted(seen)
    if case in ("sft", "soar"):
        assert not set(first["seen"]) & set(second["seen"])
