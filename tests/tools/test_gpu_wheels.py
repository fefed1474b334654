"""Which wheels travel to a machine with a CUDA torch."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "tools/gpu_wheels.py"


@pytest.fixture(scope="module")
def wheels() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_wheels", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_the_machine_has_does_not_travel(wheels: ModuleType) -> None:
    there = dict.fromkeys(wheels.with_needs(wheels.THERE, "3.12"))
    needed = wheels.closure(there, "3.12")
    assert {
        "diffusers",
        "hydra-core",
        "antlr4-python3-runtime",
        "requests",
        "ftfy",
    } <= needed.keys()
    # Of gigabytes, or too many megabytes, or of another service.
    assert needed.keys().isdisjoint({"torch", "numpy", "pyarrow", "scipy", "triton", "mlflow"})
    assert not any(name.startswith("nvidia-") for name in needed)


def test_a_version_that_is_too_old_is_replaced(wheels: ModuleType) -> None:
    there = {"torch": "2.9.0", "numpy": "2.3.5", "transformers": "4.57.0", "peft": "0.18.0"}
    needed = wheels.closure(there, "3.12")
    assert "transformers" in needed
    assert "peft" not in needed


def test_a_stored_wheel_holds_the_same_files(wheels: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.py", "x = 1\n" * 1000)
    before = path.stat().st_size
    wheels.unpack(path)
    with zipfile.ZipFile(path) as stored:
        assert stored.read("a.py") == b"x = 1\n" * 1000
    assert path.stat().st_size > before
