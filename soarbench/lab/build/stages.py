"""The stages of ``lab build``, in order; each is skipped when what it makes is there."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderDC
from transformers import CLIPTokenizer

from soarbench.common.errors import UserError
from soarbench.lab.assets import ASSETS, write_manifest
from soarbench.lab.build.autoencoder import build_autoencoder
from soarbench.lab.build.base import build_base, build_tokenizer
from soarbench.lab.build.card import write_card
from soarbench.lab.build.clip import build_aesthetic_head, build_clip
from soarbench.lab.build.data import DrawnData, draw_data
from soarbench.models.quiet import quiet_libraries

NUM_PICTURES = 40_000
DATA_SEED = 7
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workshop:
    """Where intermediate files and the finished assets go."""

    work_dir: Path
    assets: Path = ASSETS

    def data(self) -> DrawnData:
        """The drawn pictures."""
        return draw_data(self.work_dir / "data", NUM_PICTURES, DATA_SEED)

    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer shared by the base model and CLIP."""
        return build_tokenizer(self.work_dir / "tokenizer")


def _autoencoder(shop: Workshop) -> None:
    trained = build_autoencoder(shop.data(), shop.work_dir / "autoencoder")
    trained.save_pretrained(shop.work_dir / "vae")


def _base(shop: Workshop) -> None:
    autoencoder = AutoencoderDC.from_pretrained(shop.work_dir / "vae").eval()
    scratch = shop.work_dir / "pipeline"
    build_base(shop.data(), autoencoder, shop.tokenizer(), shop.work_dir / "base", scratch)
    _replace(scratch, shop.assets / "base")


def _clip(shop: Workshop) -> None:
    scratch = shop.work_dir / "clip_saved"
    build_clip(shop.data(), shop.tokenizer(), shop.work_dir / "clip", scratch)
    _replace(scratch, shop.assets / "clip")


def _aesthetic(shop: Workshop) -> None:
    scratch = shop.work_dir / "aesthetic_saved"
    build_aesthetic_head(shop.data(), shop.assets / "clip", shop.work_dir / "aesthetic", scratch)
    _replace(scratch, shop.assets / "aesthetic")


def _replace(new: Path, old: Path) -> None:
    """Put a finished asset in its place."""
    if old.exists():
        shutil.rmtree(old)
    old.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(new, old)


def _card(shop: Workshop) -> None:
    write_manifest(shop.assets)
    write_card(shop.work_dir, shop.assets)
    write_manifest(shop.assets)


STAGES: dict[str, Callable[[Workshop], None]] = {
    "autoencoder": _autoencoder,
    "base": _base,
    "clip": _clip,
    "aesthetic": _aesthetic,
    "card": _card,
}


def build(stage: str | None, work_dir: Path, assets: Path = ASSETS) -> None:
    """Build one stage anew, or all that are not yet built; an interrupted one goes on where it was.

    Raises:
        UserError: There is no such stage.
    """
    if stage is not None and stage not in STAGES:
        raise UserError(f"stage={stage!r} does not exist; choose one of {', '.join(STAGES)}")
    torch.set_flush_denormal(True)
    quiet_libraries()
    shop = Workshop(work_dir, assets)
    work_dir.mkdir(parents=True, exist_ok=True)
    for name in [stage] if stage else list(STAGES):
        mark = work_dir / f"{name}.seconds"
        if stage is None and mark.exists():
            log.info("stage %s is built; 'stage=%s' builds it again", name, name)
            continue
        if mark.exists():
            mark.unlink()
            shutil.rmtree(work_dir / name, ignore_errors=True)
        log.info("building %s", name)
        _run(name, shop, mark)


def _run(name: str, shop: Workshop, mark: Path) -> None:
    """Run a stage to its end and leave the seconds it took, those before Ctrl-C included.

    A process that was killed leaves none.
    """
    unfinished = mark.with_suffix(".unfinished")
    before = float(unfinished.read_text()) if unfinished.exists() else 0.0
    started = time.monotonic()
    try:
        STAGES[name](shop)
    finally:
        unfinished.write_text(f"{before + time.monotonic() - started:.0f}\n")
    unfinished.rename(mark)
