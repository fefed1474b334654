"""A CUDA runtime that says that one GPU is there, and processes that have it preloaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUNTIME = "libpretended.so"


class Unavailable(RuntimeError):
    """A pretended device cannot be had here; says why."""


def build(folder: Path) -> None:
    """Build the pretended runtime and driver.

    Raises:
        Unavailable: torch is not built for CUDA 13, or there is no C compiler.
    """
    import torch

    if (torch.version.cuda or "").partition(".")[0] != "13":
        raise Unavailable(f"torch {torch.__version__} is not built for CUDA 13")
    import nvidia.cu13

    headers = Path(next(iter(nvidia.cu13.__path__))) / "include"
    # -w: functions that only say yes take no notice of what they are given.
    command = ["cc", "-w", "-shared", "-fPIC", "-O1", f"-I{HERE / 'include'}", f"-I{headers}"]
    for source, target in (("cudart.c", RUNTIME), ("cuda.c", "libcuda.so.1")):
        name = f"-Wl,-soname,{target}"
        try:
            subprocess.run([*command, name, "-o", folder / target, HERE / source], check=True)
        except FileNotFoundError as error:
            raise Unavailable("there is no C compiler (cc)") from error


def run(folder: Path, words: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m tests.pretended`` with the device that ``build`` put into a folder."""
    kept = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    shown = {"LD_PRELOAD": str(folder / RUNTIME), "LD_LIBRARY_PATH": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "tests.pretended", words],
        env=kept | shown | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
