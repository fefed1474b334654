"""The stages of ``lab build``, in order; each is skipped when what it makes is there."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import AutoencoderDC

from soarbench.common.errors import UserError
from soarbench.lab.assets import ASSETS, write_manifest
from soarbench.lab.build.autoencoder import build_autoencoder
from soarbench.lab.build.base import build_base, build_tokenizer
from soarbench.lab.build.card import write_card
from soarbench.lab.build.clip import build_aesthetic_head, build_clip
from soarbench.lab.build.training import draw_data
from soarbench.models.quiet import quiet_libraries

log = logging.getLogger(__name__)


def _autoencoder(work_dir: Path) -> None:
    trained = build_autoencoder(draw_data(work_dir / "data"), work_dir / "autoencoder")
    trained.save_pretrained(work_dir / "vae")


def _base(work_dir: Path) -> None:
    autoencoder = AutoencoderDC.from_pretrained(work_dir / "vae").eval()
    data, tokenizer = draw_data(work_dir / "data"), build_tokenizer(work_dir / "tokenizer")
    finished = work_dir / "pipeline"
    build_base(data, autoencoder, tokenizer, work_dir / "base", finished)
    _ship(finished, "base")


def _clip(work_dir: Path) -> None:
    data, tokenizer = draw_data(work_dir / "data"), build_tokenizer(work_dir / "tokenizer")
    finished = work_dir / "clip_saved"
    build_clip(data, tokenizer, work_dir / "clip", finished)
    _ship(finished, "clip")


def _aesthetic(work_dir: Path) -> None:
    data, finished = draw_data(work_dir / "data"), work_dir / "aesthetic_saved"
    build_aesthetic_head(data, ASSETS / "clip", work_dir / "aesthetic", finished)
    _ship(finished, "aesthetic")


def _ship(finished: Path, name: str) -> None:
    # Copied when it is whole: what is shipped stays usable while the next one is built.
    shutil.rmtree(ASSETS / name, ignore_errors=True)
    shutil.copytree(finished, ASSETS / name)


def _card(work_dir: Path) -> None:
    # Before, since measuring verifies the assets; and after, to hold the card itself.
    write_manifest()
    write_card(work_dir)
    write_manifest()


STAGES: dict[str, Callable[[Path], None]] = {
    "autoencoder": _autoencoder,
    "base": _base,
    "clip": _clip,
    "aesthetic": _aesthetic,
    "card": _card,
}


def build(stage: str | None, work_dir: Path) -> None:
    """Build one stage anew, or all that are not yet built; an interrupted one goes on where it was.

    ``UserError`` where there is no such stage.
    """
    if stage is not None and stage not in STAGES:
        raise UserError(f"stage={stage!r} does not exist; choose one of {', '.join(STAGES)}")
    # Denormal numbers appear in late training and are a hundred times slower on a CPU.
    torch.set_flush_denormal(True)
    quiet_libraries()
    work_dir.mkdir(parents=True, exist_ok=True)
    for name in [stage] if stage else list(STAGES):
        mark = work_dir / f"{name}.seconds"
        if stage is None and mark.exists():
            log.info("stage %s is built; 'stage=%s' builds it again", name, name)
            continue
        if mark.exists():
            mark.unlink()
            # Its checkpoints are of the end: they would make of a new build the old one.
            shutil.rmtree(work_dir / name, ignore_errors=True)
        log.info("building %s", name)
        _run(name, work_dir, mark)


def _run(name: str, work_dir: Path, mark: Path) -> None:
    """Run a stage to its end and leave the seconds it took, those before Ctrl-C included."""
    unfinished = mark.with_suffix(".unfinished")
    before = float(unfinished.read_text()) if unfinished.exists() else 0.0
    started = time.monotonic()
    try:
        STAGES[name](work_dir)
    finally:
        # Not where the process is killed: its seconds are lost.
        unfinished.write_text(f"{before + time.monotonic() - started:.0f}\n")
    unfinished.rename(mark)
