import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.big_store import write_big_store


@pytest.mark.slow
def test_a_hundred_cells_take_seconds_and_little_memory(tmp_path):
    """A tenth of a thousand cells with 2,212 images each, which ``big_store`` measures whole.

    In a process of its own: a process's peak never falls, so here it would be some other test's.
    """
    write_big_store(tmp_path / "runs", num_cells=100)
    command = [sys.executable, "-m", "tests.report.big_store", str(tmp_path)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["cells"] == 100
    assert not measured["is_partial"]
    assert measured["processor_seconds"] < 20
    # Above 0, or it would not have been measured.
    assert 0 < measured["report_mib"] < 200
    assert measured["page_bytes"] < 2_000_000
