"""What doctor finds, and that it does so without loading a framework."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from evaluators.preference.clipscore import ClipScoreConfig
from soarbench.cli.doctor import examine


def test_weights_are_found_only_when_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert examine("clipscore", ClipScoreConfig()).command == "python -m soarbench fetch clipscore"
    root = tmp_path / "models--openai--clip-vit-large-patch14"
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text("abc")
    (root / "snapshots/abc").mkdir(parents=True)
    (root / "snapshots/abc/config.json").write_text("{}")
    assert "openai/clip-vit-large-patch14" in examine("clipscore", ClipScoreConfig()).missing
    (root / "snapshots/abc/model.safetensors").write_bytes(b"x")
    assert not examine("clipscore", ClipScoreConfig()).missing


def test_doctor_loads_no_framework() -> None:
    code = (
        "import sys\nfrom soarbench.cli.app import main\nassert main(['doctor']) == 0\n"
        "assert not {'torch', 'transformers', 'paddleocr'} & set(sys.modules)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
