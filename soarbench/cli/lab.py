"""``python -m soarbench lab build|card|sheet|draw``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from PIL import Image
from rich.console import Console
from rich.markdown import Markdown

from soarbench.common.files import make_writable
from soarbench.common.progress import print_line
from soarbench.config.keys import Options
from soarbench.lab.assets import ASSETS, manifest

_WORK_DIR = Path("runs/lab_build")


@dataclass(frozen=True, kw_only=True)
class CardOptions(Options):
    """``lab card`` takes nothing."""

    settings: ClassVar[tuple[str, ...] | None] = ()
    renamed: ClassVar[Mapping[str, str]] = {"path": "output"}


@dataclass(frozen=True, kw_only=True)
class BuildOptions(CardOptions):
    """What ``lab build`` takes.

    Attributes:
        stage: To build; null: all that are not yet built.
    """

    stage: str | None = None


@dataclass(frozen=True, kw_only=True)
class SheetOptions(CardOptions):
    """What ``lab sheet`` takes.

    Attributes:
        output: File of the picture.
    """

    output: Path = Path("runs/lab_sheet.png")

    def __post_init__(self) -> None:
        if self.output.suffix.lower() not in Image.registered_extensions():
            raise ValueError(f"output={self.output}: name a picture, e.g. FILE.png")


@dataclass(frozen=True, kw_only=True)
class DrawOptions(CardOptions):
    """What ``lab draw`` takes.

    Attributes:
        output: A new folder.
        suite: A suite of the laboratory.
        images_per_prompt: Pictures of each prompt.
        wrong: Share of the pictures that show something else, 0..1.
    """

    example: ClassVar[str] = "lab draw output=runs/drawn"
    output: Path
    suite: str = "lab_geneval"
    images_per_prompt: int = 2
    wrong: float = 0.2

    def __post_init__(self) -> None:
        if not 1 <= self.images_per_prompt <= 1000 or not 0 <= self.wrong <= 1:
            raise ValueError(
                f"images_per_prompt={self.images_per_prompt} wrong={self.wrong}: must be in "
                "1..1000, and in 0..1"
            )


def build(options: BuildOptions, _words: Sequence[str], *, console: Console) -> int:  # noqa: ARG001
    """Build one stage, or all that are not yet built; ``UserError`` where there is no such."""
    from soarbench.lab.build.stages import build as build_stages

    build_stages(options.stage, _WORK_DIR)
    return 0


def card(_options: CardOptions, _words: Sequence[str], *, console: Console) -> int:
    """Print the card of the shipped assets."""
    manifest()  # Says how to build them where they are not there.
    console.print(Markdown((ASSETS / "CARD.md").read_text()))
    return 0


def sheet(options: SheetOptions, _words: Sequence[str], *, console: Console) -> int:
    """Draw the base model's images of GenEval prompts of the laboratory."""
    make_writable(options.output.parent, "output")
    from soarbench.lab.build.card import base_samples
    from soarbench.lab.config import LabModelConfig
    from soarbench.lab.world.draw import contact_sheet
    from soarbench.models.sd3.model import SD3Model

    count = 4
    samples = base_samples(SD3Model.load(LabModelConfig()), "geneval", count)
    rows = [samples[i : i + count] for i in range(0, len(samples), count)]
    # Every fourth prompt: all of them make a picture too long to look at.
    picture = contact_sheet([(row[0].prompt, [s.image for s in row]) for row in rows[::4]])
    picture.save(options.output)
    print_line(console, f"wrote {options.output}")
    return 0


def draw(options: DrawOptions, _words: Sequence[str], *, console: Console) -> int:
    """Draw a suite's prompts with the renderer; ``UserError`` where an option cannot work."""
    make_writable(options.output.parent, "output")
    from soarbench.lab.world.draw import draw_suite

    num_drawn = draw_suite(options.output, options.suite, options.images_per_prompt, options.wrong)
    print_line(console, f"drew {num_drawn} images of {options.suite} into {options.output}")
    return 0
