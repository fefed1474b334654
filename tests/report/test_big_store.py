import resource
import time

import pytest

from soarbench.report.build import build_report
from tests.report.big_store import write_big_store


@pytest.mark.slow
def test_a_hundred_cells_take_seconds_and_little_memory(tmp_path):
    """A tenth of a thousand cells with 2,212 images each, which ``big_store`` measures whole."""
    grid = write_big_store(tmp_path / "grid", num_cells=100)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    report = build_report(grid, tmp_path / "results", grid="grid")
    assert len(report.cells) == 100
    assert not report.is_partial
    assert time.process_time() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024
    assert (report.folder / "index.html").stat().st_size < 2_000_000
