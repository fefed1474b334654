"""What doctor finds, and that it does so without loading a framework."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from evaluators.geneval.config import GenEvalConfig
from evaluators.preference.clipscore import ClipScoreConfig
from evaluators.vlm.hpsv3 import HpsV3Config
from evaluators.vlm.vqascore import VqaScoreConfig
from soarbench.cli.doctor import cached, examine


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


def test_weights_of_ones_own_and_servers_need_none_that_are_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("SOARBENCH_CACHE", str(tmp_path))
    assert not examine("clipscore", ClipScoreConfig(weights=str(tmp_path))).missing
    assert "Qwen3-VL" in examine("vqascore", VqaScoreConfig()).missing
    served = VqaScoreConfig(server="http://127.0.0.1:9/v1", model="judge")
    assert examine("vqascore", served).missing == "a server at http://127.0.0.1:9/v1"
    gone = ClipScoreConfig(weights="/nowhere/clip")
    assert examine("clipscore", gone).missing == "weights=/nowhere/clip: no such path"
    own = GenEvalConfig(detector=str(tmp_path))
    assert examine("geneval", own).missing == "weights timm/vit_large_patch14_clip_224.openai"


def test_a_base_without_its_weights_is_whole_beside_a_cached_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    base = next(one for one in HpsV3Config.published if "Qwen2" in one.title)
    root = tmp_path / "models--Qwen--Qwen2-VL-7B-Instruct"
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text("abc")
    (root / "snapshots/abc").mkdir(parents=True)
    index = '{"weight_map": {"a": "model-00001-of-00005.safetensors"}}'
    (root / "snapshots/abc/model.safetensors.index.json").write_text(index)
    (root / "snapshots/abc/config.json").write_text("{}")
    assert cached(base) == root / "snapshots/abc"


def test_doctor_loads_no_framework() -> None:
    code = (
        "import sys\nfrom soarbench.cli.app import main\nassert main(['doctor']) == 0\n"
        "assert not {'torch', 'transformers', 'paddleocr'} & set(sys.modules)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
