"""Shared by all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import SMALL


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


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
