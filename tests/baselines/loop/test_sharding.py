"""How a process of a distributed training ends."""

import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from baselines.loop import weights

ENDING = """
import atexit, sys
import torch
from baselines.loop.sharding import end_process

store = f"file://{sys.argv[1]}"
torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
held = torch.distributed.group.WORLD
atexit.register(print, "finalised")
print("a line that waits in its buffer")
end_process()
"""


def test_a_process_ends_well_without_finalising_and_loses_no_output(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENDING, str(tmp_path / "store")]
    root = Path(__file__).parents[3]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=900)
    assert (ended.returncode, ended.stdout) == (0, "a line that waits in its buffer\n"), (
        ended.stderr
    )


def test_who_writes_no_weights_copies_none_unless_it_holds_a_part_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[nn.Module] = []
    monkeypatch.setattr(weights, "held_transformer", lambda model, _: copied.append(model))
    whole, parts = nn.Linear(4, 4), nn.Linear(4, 4)
    weights.save_transformer(whole, tmp_path, is_main=False)
    assert copied == []
    monkeypatch.setattr(weights, "is_sharded", lambda model: model is parts)
    weights.save_transformer(parts, tmp_path, is_main=False)
    assert copied == [parts]
