"""What a grid writes is counted before it starts, and refused where it does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from soarbench.cli.disk import disk_need, require_space, space_line
from soarbench.common.errors import UserError
from soarbench.grid.expand import expand
from soarbench.jobs.graph import all_jobs
from soarbench.jobs.train import Train
from soarbench.models.sd3.architecture import KNOWN, architecture_of
from soarbench.planning.disk import weight_bytes

MEDIUM = ["grid=reward_specific", "task=aesthetic", "method=sft", "model=sd35_medium"]
LORA = "lora={rank:32,alpha:64}"
_SIZE = 2_469_663_936


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """SD3.5-Medium on data that is never read: ten rows of it."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"image": "a.png", "caption": "a"}\n')
    data = ["data=jsonl", f"data.path={rows}", "data.max_rows=10", "seeds=[0]"]
    return [*MEDIUM, *data, f"output_dir={tmp_path / 'runs'}", "ema=null"]


@pytest.mark.parametrize("path", KNOWN)
def test_written_down_sizes_are_those_of_the_model(path: str) -> None:
    sizes = architecture_of(path)
    with torch.device("meta"):
        state = sizes.transformer().state_dict()
    assert sizes.stored_parameters == sum(tensor.numel() for tensor in state.values())


def test_snapshots_and_checkpoints_by_hand(words: list[str]) -> None:
    grid = expand([*words, "lora=null", "budget.steps=30", "budget.num_snapshots=3"])
    need = disk_need(grid, all_jobs(grid))
    # bfloat16, three times; float32 with two moments, twice.
    assert need.sizes["snapshots"] == 3 * 2 * _SIZE
    assert need.sizes["checkpoints"] == 3 * 12 * _SIZE
    last = expand([*words, "lora=null", "budget.steps=30", "budget.num_snapshots=3",
                   "store.keep_snapshots=last"])  # fmt: skip
    need_of_last = disk_need(last, all_jobs(last)).sizes
    assert need_of_last["snapshots"] == 2 * _SIZE
    assert need_of_last["checkpoints"] == 2 * 2 * _SIZE + 3 * 12 * _SIZE
    averaged = expand([*words, "lora=null", "ema={decay:0.999}"])
    assert weight_bytes(averaged.cells[-1]) == (2 * _SIZE, 16 * _SIZE)
    assert need.unknown == ()


def test_an_adapter_is_small(words: list[str]) -> None:
    grid = expand([*words, LORA])
    sizes = weight_bytes(grid.cells[-1])
    # Rank 32 of eight layers of 1536 x 1536 in 24 blocks, of which the last lacks one.
    assert sizes == pytest.approx((2 * 18_776_064, 12 * 18_776_064), rel=0.01)


def test_what_is_there_is_not_counted_again(words: list[str]) -> None:
    grid = expand([*words, "lora=null", "budget.num_snapshots=2"])
    jobs = all_jobs(grid)
    before = disk_need(grid, jobs).sizes["snapshots"]
    (train,) = (job for job in jobs if isinstance(job, Train))
    folder = grid.store.artefact(train.address).root / "snapshots/step-000010"
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(bytes(1000))
    assert disk_need(grid, jobs).sizes["snapshots"] == before - 1000


def test_too_little_space_is_refused_in_one_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = expand([*words, "lora=null", "budget.steps=30", "budget.num_snapshots=3"])
    grid.store.root.mkdir()
    jobs, need = all_jobs(grid), int(disk_need(grid, all_jobs(grid)).total)
    free = {"bytes": need}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free["bytes"]))
    require_space(grid, jobs)
    free["bytes"] = need - 1
    with pytest.raises(UserError) as caught:
        require_space(grid, jobs)
    text = str(caught.value)
    assert text.startswith(f"output_dir={grid.store.root}: needs 106.4 GB (")
    assert "snapshots 14.8 GB, checkpoints 88.9 GB" in text
    assert "budget.num_snapshots" in text
    assert "\n" not in text


def test_what_only_a_download_tells_is_said_to_be_unknown(words: list[str]) -> None:
    grid = expand([*words, "model.path=org/name", "data.max_rows=null"])
    assert "snapshots not estimated, checkpoints not estimated" in space_line(grid, all_jobs(grid))
