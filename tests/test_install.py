"""The package as pip installs it: no checkout, any working directory."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from setuptools import build_meta

ROOT = Path(__file__).parents[1]
SOURCES = ("soarbench", "baselines", "evaluators", "results/reference", "pyproject.toml",
           "MANIFEST.in", "README.md", "LICENSE")  # fmt: skip


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, unpacked."""
    tree, folder = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("sdist")
    for name in SOURCES:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).symlink_to(ROOT / name)
    # The build writes beside what it builds.
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tree)
        archive = folder / build_meta.build_sdist(str(folder))
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    return archive.with_name(archive.name.removesuffix(".tar.gz"))


@pytest.fixture(scope="module")
def site(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed into, without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(sdist)
        wheel = folder / build_meta.build_wheel(str(folder))
    words = ["--no-deps", "--no-index", "--no-compile", "--target", str(folder / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *words, str(wheel)], check=True)
    return folder / "site"


def files_of(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_the_wheel_has_every_file_that_the_program_reads(site: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "soarbench", "baselines", "evaluators", "results/reference"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    expected = {name.replace("results/", "soarbench/report/") for name in listed.stdout.split()}
    assert expected - {"soarbench/report/reference"} <= files_of(site)
    assert not any(name.startswith(("tests", "docs", "results")) for name in files_of(site))


def run(site: Path, folder: Path, *command: str | Path) -> str:
    """What the installed program prints in a folder; the dependencies are this Python's."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(site), "COLUMNS": "120"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("how", ["console", "module"])
def test_it_runs_where_folders_have_the_names_of_packages(
    how: str, site: Path, tmp_path: Path
) -> None:
    for name in ("baselines", "evaluators", "datasets", "rich"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise AssertionError('{name} of here')\n")
    (tmp_path / "mine.py").write_text("def reward(images, **columns):\n    return []\n")
    program = [site / "bin/soarbench"] if how == "console" else [sys.executable, "-m", "soarbench"]
    words = ["run", "grid=reward_specific", "method=flow_grpo", "reward=mine.reward", "--dry-run"]
    text = run(site, tmp_path, *program, *words)
    assert "flow_grpo-aesthetic-seed0" in text


def test_packages_of_that_name_that_came_first_are_said(site: Path, tmp_path: Path) -> None:
    (tmp_path / "evaluators.py").touch()
    code = (
        "import sys\nsys.path.insert(0, '')\nimport evaluators\n"
        "try:\n    import soarbench\nexcept ImportError as error:\n    print(error)\n"
    )
    assert "its own package 'evaluators'" in run(site, tmp_path, sys.executable, "-c", code)
