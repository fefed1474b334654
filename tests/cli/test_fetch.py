"""Fetching without a network, and the check of what was fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import constants

from evaluators.weights import PublishedWeights
from soarbench.cli.app import main
from soarbench.cli.fetch import verify
from soarbench.common.errors import UserError


def test_offline_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert main(["fetch", "pickscore"]) == 2
    text = capsys.readouterr().err
    assert "yuvalkirstain/PickScore_v1 is not in the local hub cache" in text
    assert text.count("\n") == 1


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    weights = PublishedWeights(repo="a/b", files=("*.bin",), disk_gb=0, memory_gb=0)
    digest = hashlib.sha256(b"whole").hexdigest()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "blobs" / digest).write_bytes(b"whole")
    (tmp_path / "snapshot/m.bin").symlink_to(tmp_path / "blobs" / digest)
    assert verify(weights, tmp_path / "snapshot") == 1
    (tmp_path / "blobs" / digest).write_bytes(b"torn")
    with pytest.raises(UserError, match="is damaged"):
        verify(weights, tmp_path / "snapshot")
