"""``device=cuda:N`` on a machine with several GPUs, which is pretended."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from soarbench.cli import app, named_gpu
from soarbench.cli.named_gpu import on_named_gpu


@pytest.fixture
def _four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def seen() -> int:
        names = os.environ.get("CUDA_VISIBLE_DEVICES")
        return 4 if names is None else len(names.split(","))

    monkeypatch.setattr(torch.cuda, "device_count", seen)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    # As of a command that has just been typed.
    monkeypatch.setattr(named_gpu, "sys", SimpleNamespace(modules={}))


@pytest.mark.usefixtures("_four_gpus")
def test_the_gpu_that_is_named_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7c")
    words = on_named_gpu(["grid=reward_specific", "device=cuda:1"])
    assert words == ["grid=reward_specific", "device=cuda"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-7c"


@pytest.mark.usefixtures("_four_gpus")
def test_without_a_selection_the_index_is_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert on_named_gpu(["device=cuda:1", "device=cuda:3"])[-1] == "device=cuda"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.usefixtures("_four_gpus")
@pytest.mark.parametrize(
    "words",
    [["device=cuda"], ["device=cuda:0"], ["device=cuda:9"], ["device=cuda:1", "launcher=ray"]],
)
def test_nothing_is_hidden(words: list[str]) -> None:
    assert on_named_gpu(words) == words
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.usefixtures("_four_gpus")
def test_nothing_is_hidden_where_torch_may_have_asked_for_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(named_gpu, "sys", SimpleNamespace(modules={"torch": torch}))
    assert on_named_gpu(["device=cuda:1"]) == ["device=cuda:1"]


@pytest.mark.usefixtures("_four_gpus")
def test_nothing_is_hidden_where_cuda_itself_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert on_named_gpu(["device=cuda:1"]) == ["device=cuda:1"]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.usefixtures("_four_gpus")
def test_a_command_computes_on_the_gpu_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], str]] = []

    def run(words: list[str], **_: object) -> int:
        seen.append((list(words), os.environ["CUDA_VISIBLE_DEVICES"]))
        return 0

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    monkeypatch.setattr("soarbench.cli.run.run", run)
    assert app.main(["run", "grid=reward_specific", "device=cuda:2"]) == 0
    assert seen == [(["grid=reward_specific", "device=cuda"], "2")]
