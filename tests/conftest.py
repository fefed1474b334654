"""Shared by all tests."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

# Before anything imports torch: so many processes have no use for more threads, and sums come out
# alike however many cores a machine has.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers are nice to others (15), and waited here until all other tests had their cores.
os.environ.setdefault("RAY_worker_niceness", "0")

from tests.fakes import SMALL


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Processes for ``-n logical``: many a test waits for a timer or a server, not for a core."""
    has_share = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_share else os.cpu_count() or 1
    return cores + max(2, cores // 2)


def pytest_configure() -> None:
    # What collecting imports stays, and there is nothing to find in it.
    gc.disable()


def pytest_collection_finish() -> None:
    # Nor later: the collections that a grid asks for between its models took a quarter of its time.
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _put_long_files_first(items)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _put_long_files_first(items: list[pytest.Item]) -> None:
    """Where files are handed to processes, a long one at the end would keep the others waiting."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def overrides(tmp_path: Path) -> list[str]:
    """A small grid in a folder of its own, on a model directory that is never loaded."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    return [
        "grid=reward_specific",
        f"model.path={model}",
        f"output_dir={tmp_path / 'runs'}",
        f"results_dir={tmp_path / 'results'}",
        *SMALL,
    ]
