"""``python -m soarbench lab build|card|sheet|draw``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rich.console import Console
from rich.markdown import Markdown

from soarbench.config.keys import Options
from soarbench.lab.assets import ASSETS, manifest

WORK_DIR = Path("runs/lab_build")
_IMAGES_PER_PROMPT = 4


@dataclass(frozen=True, kw_only=True)
class CardOptions(Options):
    """``lab card`` takes nothing."""

    settings: ClassVar[tuple[str, ...] | None] = ()
    renamed: ClassVar[Mapping[str, str]] = {"path": "output"}


@dataclass(frozen=True, kw_only=True)
class BuildOptions(CardOptions):
    """What ``lab build`` takes.

    Attributes:
        stage: This one alone; None: all that are not yet built.
    """

    stage: str | None = None


@dataclass(frozen=True, kw_only=True)
class SheetOptions(CardOptions):
    """What ``lab sheet`` takes.

    Attributes:
        output: The picture.
    """

    output: Path = Path("runs/lab_sheet.png")


@dataclass(frozen=True, kw_only=True)
class DrawOptions(CardOptions):
    """What ``lab draw`` takes.

    Attributes:
        output: A new folder.
        suite: Whose prompts are drawn.
        images_per_prompt: Pictures of each.
        wrong: Share of pictures of something else, 0..1.
    """

    example: ClassVar[str] = "lab draw output=runs/drawn"
    output: Path
    suite: str = "lab_geneval"
    images_per_prompt: int = 2
    wrong: float = 0.2


def build(options: BuildOptions, _words: Sequence[str], *, console: Console) -> int:  # noqa: ARG001
    """Build one stage, or all that are not yet built; resumable.

    Raises:
        UserError: There is no such stage.
    """
    from soarbench.lab.build.stages import build as build_stages

    build_stages(options.stage, WORK_DIR)
    return 0


def card(_options: CardOptions, _words: Sequence[str], *, console: Console) -> int:
    """Print the card of the shipped assets.

    Raises:
        UserError: The laboratory was not built.
    """
    manifest()
    console.print(Markdown((ASSETS / "CARD.md").read_text()))
    return 0


def sheet(options: SheetOptions, _words: Sequence[str], *, console: Console) -> int:
    """Draw the base model's images of every fourth GenEval prompt of the laboratory.

    Raises:
        UserError: The laboratory was not built, or an asset is corrupted.
    """
    from soarbench.lab.build.card import base_samples
    from soarbench.lab.config import LabModelConfig
    from soarbench.lab.world.draw import contact_sheet
    from soarbench.models.sd3.model import SD3Model

    count = _IMAGES_PER_PROMPT
    samples = base_samples(SD3Model.load(LabModelConfig()), "geneval", count)
    rows = [samples[i : i + count] for i in range(0, len(samples), count)]
    picture = contact_sheet([(row[0].prompt, [s.image for s in row]) for row in rows[::4]])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(options.output)
    console.print(f"wrote {options.output}", highlight=False)
    return 0


def draw(options: DrawOptions, _words: Sequence[str], *, console: Console) -> int:
    """Draw a suite's prompts with the renderer.

    Raises:
        UserError: An option cannot work.
    """
    from soarbench.lab.world.draw import draw_suite

    num_drawn = draw_suite(options.output, options.suite, options.images_per_prompt, options.wrong)
    text = f"drew {num_drawn} images of {options.suite} into {options.output}"
    console.print(text, highlight=False, soft_wrap=True)
    return 0
