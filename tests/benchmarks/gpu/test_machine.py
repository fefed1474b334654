"""What ends ``bench gpu`` before anything is built, and which row of the planner a card is."""

from __future__ import annotations

from unittest import mock

import pytest
import torch

from soarbench.benchmarks.gpu.machine import known_gpu
from soarbench.cli.app import main


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["bench", "gpu", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_machine_without_cuda_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.object(torch.cuda, "is_available", return_value=False):
        assert "device=cuda: no CUDA device here (torch" in said(capsys)


def test_a_torch_that_is_too_old_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.object(torch, "__version__", "2.5.1+cu124"):
        assert "torch 2.5.1+cu124 is too old: soarbench needs 2.6 or newer" in said(capsys)


def test_a_gpu_with_too_little_memory_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        mock.patch.object(torch.cuda, "is_available", return_value=True),
        mock.patch.object(torch.cuda, "device_count", return_value=1),
        mock.patch.object(torch.cuda, "mem_get_info", return_value=(3_100_000_000, 8_000_000_000)),
        mock.patch.object(torch.cuda, "get_device_name", return_value="NVIDIA T400"),
    ):
        assert "needs 12 GB and NVIDIA T400 has 3.1 free" in said(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["minutes=0"], "minutes=0.0: must be more than 0"),
        (["only=[judge]"], "only=judge: is no measurement: did you mean 'judges'"),
    ],
)
def test_bad_words_end_with_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in said(capsys, *words)


@pytest.mark.parametrize(
    ("name", "memory_gb", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", 85.0, 989),
        ("NVIDIA A100-SXM4-40GB", 42.3, 312),
        ("NVIDIA L40S", 47.7, 362),
        ("NVIDIA L4", 23.6, 121),
        ("NVIDIA GeForce RTX 4090", 25.3, 165),
        # Lower peaks than the table's, or no row at all.
        ("NVIDIA H100 PCIe", 85.0, None),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", 42.0, None),
        ("NVIDIA T4", 15.8, None),
    ],
)
def test_a_card_is_known_by_its_name_and_memory(
    name: str, memory_gb: float, expected: float | None
) -> None:
    gpu = known_gpu(name, memory_gb)
    assert (None if gpu is None else gpu.bf16_tflops) == expected
