"""How a process of a distributed training ends."""

import subprocess
import sys
from pathlib import Path

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
