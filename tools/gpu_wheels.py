"""Fetch the wheels that ``make gpu`` needs and another machine lacks; called by gpu_bundle.sh.

``python tools/gpu_wheels.py FOLDER PYTHON_VERSION [PACKAGES.txt]``; versions are those installed
here.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical
from packaging.version import Version
from setuptools import build_meta

#: What is imported on the way to a GPU's numbers, but for those of the laboratory's grid.
ROOTS = (
    "accelerate", "diffusers", "filelock", "hydra-core", "numpy", "omegaconf", "open_clip_torch",
    "peft", "pillow", "pytest", "pyyaml", "requests", "rich", "safetensors", "torch",
    "torchvision", "transformers",
)  # fmt: skip
#: Taken to be there; torch and torchvision are of one build, which no bundle can know.
THERE = ("torch", "torchvision", "numpy")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 24, 17)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux1_x86_64"]


def frozen(path: Path) -> dict[str, str]:
    """Versions by name, of ``pip freeze``'s lines."""
    pairs = (line.split("==") for line in path.read_text().splitlines() if "==" in line)
    return {canonical(name): version.strip() for name, version in pairs}


def closure(there: Mapping[str, str | None], python: str) -> dict[str, str]:
    """Versions of the packages that are needed, without those that are there and new enough."""
    environment = {**default_environment(), "python_version": python, "extra": ""}
    own = {canonical(need.name): need for need in needs_of("soarbench", environment)}
    needed: dict[str, str] = {}
    names = [own.get(canonical(root), Requirement(root)) for root in ROOTS]
    while names:
        need = names.pop()
        name = canonical(need.name)
        if name in needed or suffices(need, there, name):
            continue
        try:
            needed[name] = distribution(name).version
        except PackageNotFoundError:
            raise SystemExit(f"gpu_bundle: {name} is not installed here: make setup") from None
        names += needs_of(name, environment)
    return needed


def suffices(need: Requirement, there: Mapping[str, str | None], name: str) -> bool:
    """Whether a package is there in a version that fits; None stands for any."""
    if name not in there:
        # A part of torch, whatever its build calls it.
        return name.startswith(("nvidia-", "cuda-")) or name in ("triton", "sympy", "networkx")
    version = there[name]
    return version is None or need.specifier.contains(Version(version), prereleases=True)


def needs_of(name: str, environment: dict[str, str]) -> list[Requirement]:
    """What a package requires there, without its extras."""
    needs = [Requirement(line) for line in distribution(name).requires or ()]
    return [need for need in needs if need.marker is None or need.marker.evaluate(environment)]


def with_needs(names: Iterable[str], python: str) -> set[str]:
    """Packages, and everything that was installed with them."""
    environment = {**default_environment(), "python_version": python, "extra": ""}
    known: set[str] = set()
    queue = [canonical(name) for name in names]
    while queue:
        name = queue.pop()
        if name in known or suffices(Requirement(name), {}, name):
            continue
        known.add(name)
        queue += [canonical(need.name) for need in needs_of(name, environment)]
    return known


def fetch(needed: Mapping[str, str], folder: Path, python: str) -> None:
    """Download a wheel of each, and build those that have none."""
    pinned = [f"{name}=={version}" for name, version in sorted(needed.items())]
    pip = [sys.executable, "-m", "pip", "-qq"]
    # Published as a source archive alone, pure Python.
    sources = [word for word in pinned if word.startswith("antlr4-")]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, *sources], check=True)
    platforms = [f"--platform={platform}" for platform in PLATFORMS]
    target = ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    wheels = [word for word in pinned if word not in sources]
    command = [*pip, "download", "--no-deps", *target, *platforms, "-d", folder, *wheels]
    subprocess.run(command, check=True)


def unpack(wheel: Path) -> None:
    """Store a wheel's files as they are: the archive as a whole compresses to half as much."""
    plain = wheel.with_suffix(".plain")
    with zipfile.ZipFile(wheel) as packed, zipfile.ZipFile(plain, "w") as stored:
        for entry in packed.infolist():
            content = packed.read(entry)
            entry.compress_type = zipfile.ZIP_STORED
            stored.writestr(entry, content)
    plain.replace(wheel)


def main(folder: Path, python: str, packages: str) -> None:
    """Fill a folder with wheels, and put the package's own metadata beside them."""
    folder.mkdir(parents=True)
    there: Mapping[str, str | None]
    there = frozen(Path(packages)) if packages else dict.fromkeys(with_needs(THERE, python))
    fetch(closure(there, python), folder, python)
    for wheel in folder.glob("*.whl"):
        unpack(wheel)
    # The laboratory is found by an entry point, so that the tree needs metadata to be run from.
    metadata = folder / "metadata"
    metadata.mkdir()
    with contextlib.redirect_stdout(io.StringIO()):
        name = build_meta.prepare_metadata_for_build_wheel(str(metadata))
    shutil.copytree(metadata / name, folder.parent / name)
    shutil.rmtree(metadata)


if __name__ == "__main__":
    folder, python, *packages = sys.argv[1:]
    main(Path(folder), python, packages[0] if packages else "")
